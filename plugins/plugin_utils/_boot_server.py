# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Network boot: what variables of role boot_server mean for DHCP, the packet filter and the releases to keep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Any, Literal

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.plugin_utils import _boot_server_kea
from ansible_collections.vauban.fleet.plugins.plugin_utils._pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    messages,
)

# Architectures of RFC 4578 and what was registered since; all of them are x86-64.
PXE = {7: "X86-64_EFI", 9: "BC_EFI"}
HTTP = 16
# The field of a DHCP message that names the file ends with a zero (RFC 2131).
_FILE_LENGTH = 127
_DHCP_USER = "boot-dhcp"
# Readable for Kea alone; written by the role, and brought by a machine that is an image.
_PASSWORD_FILE = "/etc/kea/vauban/lease-database-password"
_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306}
_RULE = {"family": "ipv4", "source": None, "destination": None, "interface": None, "user": None}


def _mac(value: Any) -> Any:
    return value.lower().replace("-", ":") if isinstance(value, str) else value


Mac = Annotated[str, BeforeValidator(_mac), Field(pattern=r"^([0-9a-f]{2}:){5}[0-9a-f]{2}$")]
Label = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
Interface = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$")]
# Parts of a path that nginx serves, and that dnsmasq reads as one word.
Part = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]
Url = Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9.:\[\]-]+/[A-Za-z0-9._~+/%-]+$")]
Lease = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,5}[mh]$")]  # seconds fit into 32 bits
# Kea hands them to the clients of databases within quotation marks.
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
File = Annotated[str, Field(pattern=r"^(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+$")]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Network(_Model):
    """A network whose machines are answered."""

    network: IPv4Network
    first: IPv4Address | None = None
    last: IPv4Address | None = None
    router: IPv4Address | None = None
    dns: tuple[IPv4Address, ...] = ()


class Installer(_Model):
    """What a machine can boot."""

    name: Label
    product: Part | None = None
    version: Part | None = None
    scheme: Literal["http", "https"] = "http"
    url: Url | None = None
    pxe: Part | None = None


class Host(_Model):
    """A machine that the inventory knows. Without ``installer`` it gets the default, with an empty one nothing."""

    name: Label
    macs: Annotated[tuple[Mac, ...], Field(min_length=1)]
    address: IPv4Address | None = None
    installer: Label | Literal[""] | None = None


class LeaseDatabase(_Model):
    """Where several servers keep their leases together."""

    type: Literal["postgresql", "mysql"]
    host: Name
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    name: Word
    user: Word
    authority: File | None = None


def _absent(value: Any) -> Any:
    return None if value == {} else value


class Settings(_Model):
    """The variables of the role that this concerns, without their prefix."""

    mode: Literal["dhcp", "proxy", "none"]
    dhcp_server: Literal["dnsmasq", "kea"]
    lease_database: Annotated[LeaseDatabase | None, BeforeValidator(_absent)]
    name: Name | Literal[""]
    address: IPv4Address | Literal[""]
    interfaces: tuple[Interface, ...]
    networks: tuple[Network, ...]
    lease: Lease
    known_only: bool
    installers: tuple[Installer, ...]
    default: Label | Literal[""]
    hosts: tuple[Host, ...]

    @property
    def kea(self) -> bool:
        """Whether Kea answers machines; dnsmasq then serves TFTP alone."""
        return self.dhcp_server == "kea" and self.mode == "dhcp"


def plan(data: Mapping[str, Any]) -> dict[str, Any]:
    """Lines of dnsmasq.conf, configurations of Kea, and the releases that must stay because machines are sent to them.

    :raises FleetError: names the variable.
    """
    settings = _settings(data)
    _check(settings)
    held = [f"{each.product}/{each.version}" for each in settings.installers if each.product is not None]
    return {"dhcp": list(_lines(settings)), "kea": _kea(settings), "held": sorted(set(held))}


def rules(
    mode: str,
    interfaces: Sequence[str] = (),
    inner: Sequence[str] = (),
    server: str = "dnsmasq",
    database: Mapping[str, Any] | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """What role firewall must let through, for O(firewall_rulesets[].input) and C(output).

    :param interfaces: those that machines come by; empty stands for all.
    :param inner: those by which installed machines come, through a gateway.
    :param server: the DHCP server. Kea answers by a packet socket, which no packet filter sees.
    :param database: where Kea keeps its leases, as V(boot_server_lease_database).
    """
    if mode not in ("dhcp", "proxy", "none"):
        raise FleetError(f"no such mode: {mode!r}", where="boot_server_mode", remedy="choose dhcp, proxy or none")
    _check_server(mode, server)
    places: Sequence[str | None] = list(interfaces) or [None]
    asked = {"dhcp": ["67"], "proxy": ["67", "4011"], "none": []}[mode]
    found: dict[str, list[dict[str, Any]]] = {"input": [], "output": []}
    for place in places:
        if asked:
            found["input"].append(_rule("DHCP of machines that boot", "udp", asked, interface=place))
        if asked and server == "dnsmasq":
            answer = _rule("answers to machines that boot", "udp", ["67-68"], interface=place)
            found["output"].append({**answer, "source_ports": ["67"], "user": _DHCP_USER})
        found["input"].append(_rule("TFTP", "udp", ["69"], interface=place))
        found["input"].append(_rule("installers and releases", "tcp", ["80", "443"], interface=place))
    if server == "kea" and mode == "dhcp" and database:
        port = database.get("port") or _DATABASE_PORTS.get(str(database.get("type")), 0)
        found["output"].append(_rule("leases", "tcp", [str(port)], interface=None))
    found["input"] += [_rule("installed machines", "tcp", ["443"], interface=place) for place in inner]
    return found


def chosen(
    hosts: Iterable[Mapping[str, Any]], installers: Sequence[Mapping[str, Any]], default: str
) -> list[dict[str, Any]]:
    """Hosts of a site that boot another installer than the default: that of their product, if there is one.

    :param hosts: variables of hosts, as the inventory of a site has them.
    :param installers: as V(boot_server_installers).
    """
    by_product = {each.get("product"): each["name"] for each in reversed(installers)}
    found = []
    for host in hosts:
        installer = by_product.get(host.get("fleet_product"), default)
        macs = host.get("fleet_macs")
        if macs and installer != default:
            found.append({"name": host["inventory_hostname"], "macs": list(macs), "installer": installer})
    return found


def _rule(comment: str, protocol: str, ports: list[str], *, interface: str | None) -> dict[str, Any]:
    rule = {**_RULE, "comment": comment, "protocol": protocol, "ports": ports, "source_ports": []}
    return {**rule, "interface": interface}


def _settings(data: Mapping[str, Any]) -> Settings:
    try:
        return Settings.model_validate(dict(data))
    except ValidationError as exc:
        text = "; ".join(f"boot_server_{place}: {message}" for place, message in messages(exc, depth=3).items())
        raise FleetError(text, remedy="see ansible-doc -t role vauban.fleet.boot_server") from None


def _check_server(mode: str, server: str) -> None:
    where = "boot_server_dhcp_server"
    if server not in ("dnsmasq", "kea"):
        raise FleetError(f"no such server: {server!r}", where=where, remedy="choose dnsmasq or kea")
    if server == "kea" and mode == "proxy":
        raise FleetError(
            "Kea knows no ProxyDHCP, which boot_server_mode: proxy asks for",
            where=where,
            remedy="choose dnsmasq, or let Kea be the DHCP server with boot_server_mode: dhcp",
        )


def _check(settings: Settings) -> None:
    """What no single value shows."""
    _check_server(settings.mode, settings.dhcp_server)
    if settings.lease_database is not None and settings.dhcp_server != "kea":
        raise FleetError(
            "dnsmasq keeps its leases in memory",
            where="boot_server_lease_database",
            remedy="set boot_server_dhcp_server to kea, or leave this out",
        )
    installers = [each.name for each in settings.installers]
    macs = [mac for host in settings.hosts for mac in host.macs]
    addresses = [str(host.address) for host in settings.hosts if host.address is not None]
    _once(installers, "boot_server_installers: name")
    _once([host.name for host in settings.hosts], "boot_server_hosts: name")
    _once(macs, "boot_server_hosts: macs")
    _once(addresses, "boot_server_hosts: address")
    wanted = {"boot_server_default": settings.default}
    wanted |= {f"boot_server_hosts ({host.name}): installer": host.installer or "" for host in settings.hosts}
    for where, name in wanted.items():
        if name and name not in installers:
            raise FleetError(f"no installer {name}", where=where, remedy="name one of boot_server_installers")
    for each in settings.installers:
        where = f"boot_server_installers ({each.name})"
        if (each.product is None) != (each.version is None):
            raise FleetError("product and version belong together", where=where)
        if each.product is None and each.url is None:
            raise FleetError("leads nowhere", where=where, remedy="give product and version of a release, or url")
        if len(url := _url(settings, each)) > _FILE_LENGTH:
            raise FleetError(f"{url} has more than {_FILE_LENGTH} characters, which DHCP cannot say", where=where)
    if settings.mode != "none":
        _check_networks(settings)


def _check_networks(settings: Settings) -> None:
    for name, value in (("interfaces", settings.interfaces), ("networks", settings.networks)):
        if not value:
            raise FleetError(f"needed in mode {settings.mode}", where=f"boot_server_{name}")
    if settings.address == "":
        raise FleetError("needed by machines to find this server", where="boot_server_address")
    if settings.mode == "proxy":
        return
    for each in settings.networks:
        where = f"boot_server_networks ({each.network})"
        if each.first is None or each.last is None:
            raise FleetError("first and last address are needed in mode dhcp", where=where)
        if each.first not in each.network or each.last not in each.network or each.first > each.last:
            raise FleetError(f"{each.first} to {each.last} is no range of this network", where=where)
        if settings.address and int(each.first) <= int(settings.address) <= int(each.last):
            raise FleetError(f"{settings.address} of this server would be given to a machine", where=where)
    if settings.kea:
        _check_apart(settings.networks)
    for host in settings.hosts:
        if host.address is not None and not any(host.address in each.network for each in settings.networks):
            raise FleetError(
                f"{host.address} is in none of boot_server_networks", where=f"boot_server_hosts ({host.name})"
            )


def _check_apart(networks: Sequence[Network]) -> None:
    """Kea looks for the one network of an address, and for leases by the number of that network."""
    for number, each in enumerate(networks):
        where = f"boot_server_networks ({each.network})"
        if not int(each.network.network_address):
            raise FleetError("no network of machines", where=where)
        for other in networks[:number]:
            if each.network.overlaps(other.network):
                raise FleetError(f"overlaps with {other.network}", where=where, remedy="leave one of the two out")


def _once(values: Iterable[str], where: str) -> None:
    if twice := sorted(value for value, count in Counter(values).items() if count > 1):
        raise FleetError(f"more than once: {', '.join(twice)}", where=where)


def _url(settings: Settings, installer: Installer) -> str:
    if installer.url is not None:
        return installer.url
    # A certificate bears the name; who needs none is spared the question for it.
    server = settings.name if installer.scheme == "https" else settings.address
    if server == "":
        missing = "name" if installer.scheme == "https" else "address"
        raise FleetError("needed for the URL of an installer", where=f"boot_server_{missing}")
    file = f"{installer.product}_{installer.version}_installer.efi"
    return f"{installer.scheme}://{server}/releases/{installer.product}/{installer.version}/{file}"


def _kea(settings: Settings) -> list[dict[str, Any]]:
    """The one configuration of Kea, with the name of its file, if Kea is to answer."""
    if not settings.kea:
        return []
    urls = {each.name: _url(settings, each) for each in settings.installers}
    made = _boot_server_kea.configuration(settings, urls, http=HTTP, pxe=tuple(PXE), password_file=_PASSWORD_FILE)
    return [{"name": "kea-dhcp4", **made, "environment": _boot_server_kea.environment(settings)}]


def _lines(settings: Settings) -> Iterator[str]:
    yield from (f"interface={name}" for name in settings.interfaces)
    if settings.mode == "none" or settings.kea:
        return  # TFTP alone: without a range dnsmasq opens no port of DHCP
    if settings.mode == "dhcp":
        # There is no other server for these networks: who asks for an unknown lease learns at once that it is gone.
        yield "dhcp-authoritative"
    else:
        # Firmware that boots by HTTP names another class than PXE; without this line it would not be answered.
        yield "dhcp-pxe-vendor=PXEClient,HTTPClient"
    for number, each in enumerate(settings.networks):
        yield from _network(settings, f"net{number}", each)
    for host in settings.hosts:
        own = [] if host.installer is None else ["set:own", *([f"set:boot-{host.installer}"] if host.installer else [])]
        address = [str(host.address)] if host.address is not None and settings.mode == "dhcp" else []
        yield f"dhcp-host={','.join([*host.macs, *own, *address, host.name])}"
    if settings.known_only:
        yield "dhcp-ignore=tag:!known"
    for installer in settings.installers:
        conditions = [f"tag:boot-{installer.name}"]
        conditions += ["tag:!own"] if installer.name == settings.default else []
        for condition in conditions:
            yield from _boot(settings, condition, installer)


def _network(settings: Settings, tag: str, each: Network) -> Iterator[str]:
    if settings.mode == "proxy":
        yield f"dhcp-range={each.network.network_address},proxy,{each.network.netmask}"
        return
    yield f"dhcp-range=set:{tag},{each.first},{each.last},{each.network.netmask},{settings.lease}"
    # An option without a value is not sent: unasked, dnsmasq would say that it is router and name server itself.
    yield ",".join([f"dhcp-option=tag:{tag},option:router", *([str(each.router)] if each.router else [])])
    yield ",".join([f"dhcp-option=tag:{tag},option:dns-server", *map(str, each.dns)])


def _boot(settings: Settings, condition: str, installer: Installer) -> Iterator[str]:
    url = _url(settings, installer)
    yield f"dhcp-boot=tag:http,{condition},{url}"
    if settings.mode == "dhcp":
        # Firmware takes no URL from an answer that does not name this class (UEFI 2.10, 24.7.3.1).
        yield f"dhcp-option-force=tag:http,{condition},option:vendor-class,HTTPClient"
    yield f"dhcp-boot=tag:ipxe,{condition},{url}"
    if installer.pxe is None:
        return
    if settings.mode == "dhcp":
        yield f"dhcp-boot=tag:pxe,tag:!ipxe,{condition},{installer.pxe},,{settings.address}"
        return
    for architecture in PXE.values():
        service = f"{architecture},{installer.name},{installer.pxe},{settings.address}"
        yield f"pxe-service=tag:!ipxe,{condition},{service}"
