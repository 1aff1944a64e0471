# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""The site model: what an admin writes in ``*.site.yml``, and its shape.

Descriptions here are the reference: ``docs/site-model.md`` and the JSON Schema for editors are made from them. What a
value means beside others is judged in :mod:`meaning`.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Annotated, Literal

from ansible_collections.vauban.fleet.plugins.plugin_utils._pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)


def _written(value: object) -> object:
    """Python makes addresses of numbers, too; nobody who writes one means that."""
    if isinstance(value, int | float):
        raise ValueError(f"{value} is a number; write an address in full")
    return value


Address = Annotated[IPv4Address | IPv6Address, BeforeValidator(_written)]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_written)]
Network4 = Annotated[IPv4Network, BeforeValidator(_written)]
Network6 = Annotated[IPv6Network, BeforeValidator(_written)]

# Names that mean something beside those of tunnels, so no tunnel may have them.
OUTER = "outer"  # what a rule goes through if not a tunnel
HOST_RULESET = "host"  # the ruleset of the namespace that holds no tunnel


# What a text that has to match a pattern is, and how to write one, for messages.
KINDS: dict[str, tuple[str, str]] = {}


def _text(pattern: str, length: int, what: str, remedy: str) -> StringConstraints:
    whole = f"^(?:{pattern})$"
    KINDS[whole] = (what, remedy)
    return StringConstraints(pattern=whole, max_length=length, min_length=1)


# A label of a host name (RFC 1123), and what is part of one.
Name = Annotated[str, _text("[a-z0-9](?:[a-z0-9-]*[a-z0-9])?", 63, "name", "use a-z, 0-9 and -, not at the ends")]
# A name that nft and Linux interfaces take too (IFNAMSIZ is 16, with the final zero).
ShortName = Annotated[str, _text("[a-z][a-z0-9_-]*", 15, "short name", "use a-z first, then a-z, 0-9, _ and -")]
Identifier = Annotated[str, _text("[a-z][a-z0-9_]*", 31, "identifier", "use a-z first, then a-z, 0-9 and _")]
# Several hosts at once: lyon-laptop-[001:120], as in Ansible's own inventories.
HostPattern = Annotated[
    str,
    _text(
        r"[a-z0-9](?:[a-z0-9-]|\[[0-9]+:[0-9]+(?::[0-9]+)?\])*",
        63,
        "host or range of hosts",
        "use a-z, 0-9 and -; a range is name-[01:20]",
    ),
]
Domain = Annotated[str, _text(r"[a-z0-9-]+(?:\.[a-z0-9-]+)*", 180, "domain", "write it as example.org")]
HostName = Annotated[str, _text(r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*", 253, "host name", "write it as host.example.org")]
Mac = Annotated[
    str,
    _text("[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5}", 17, "hardware address", "write it as 52:54:00:12:34:56"),
    AfterValidator(str.lower),
]
Unit = Annotated[
    str,
    _text(r"[A-Za-z0-9:_.@\\-]+\.(?:service|socket|timer|path)", 255, "unit", "write it with its suffix: sshd.service"),
]
ConfinedUnit = Annotated[
    str,
    _text(
        r"[A-Za-z0-9:_.@\\-]+\.(?:service|socket|mount|swap)",
        255,
        "unit that can be confined",
        "write it with its suffix: sshd.service",
    ),
]
User = Annotated[str, _text("[a-z_][a-z0-9_-]*", 31, "user", "use a-z and _ first, then a-z, 0-9, _ and -")]
Port = Annotated[int, Field(ge=1, le=65535)]
PortRange = Annotated[str, _text("[0-9]{1,5}-[0-9]{1,5}", 11, "range of ports", "write it as 6000-6010")]
NamePattern = Annotated[
    str, _text(r"[a-z0-9*?\[\]!-]+", 63, "name or pattern", "use a-z, 0-9, - and the wildcards * ? [ ]")
]
Line = Annotated[str, _text(r"[^\n]+", 1000, "line", "write one line")]
Sha256 = Annotated[str, _text("[0-9a-f]{64}", 64, "SHA-256", "write 64 digits 0-9 and a-f")]
Version = Annotated[
    str, _text("[A-Za-z0-9][A-Za-z0-9._+-]*", 64, "version", "write it as its release does, for example 0.1.0")
]
CalendarEvent = Annotated[
    str,
    _text("[A-Za-z0-9*.,:/~ _-]+", 100, "calendar event", "write it as systemd.time(7) does, for example Sun 03:00"),
]
HttpsAddress = Annotated[
    str,
    _text(
        r"https://[a-z0-9-]+(?:\.[a-z0-9-]+)+(?::[0-9]{1,5})?",
        270,
        "address of a server",
        "write it as https://provision.example.org",
    ),
]
HardwareProfile = Annotated[
    str, _text("[a-z][a-z0-9_-]*", 32, "hardware profile", "use a-z first, then a-z, 0-9, _ and -")
]
Tenant = Annotated[str, _text("[A-Za-z0-9][A-Za-z0-9_-]*", 40, "tenant", "write its name, as default")]
Bytes = Annotated[int, Field(ge=1, lt=2**63)]


class Part(BaseModel):
    """Base of all parts: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class AddressPair(Part):
    """One network, IPv4, IPv6 or both."""

    ipv4: Network4 | None = None
    """IPv4 network in CIDR notation, without host bits."""
    ipv6: Network6 | None = None
    """IPv6 network in CIDR notation, without host bits. Only where the site has ``ipv6: on``."""

    @property
    def networks(self) -> list[Network]:
        """Those that are given."""
        return [network for network in (self.ipv4, self.ipv6) if network is not None]

    def of(self, version: int) -> Network | None:
        """The network of a family, 4 or 6."""
        return self.ipv4 if version == 4 else self.ipv6

    @model_validator(mode="after")
    def _some(self) -> AddressPair:
        if self.ipv4 is None and self.ipv6 is None:
            raise ValueError("neither ipv4 nor ipv6 is given; give one of them")
        return self


class Route(Part):
    """A route beside that to the router."""

    destination: Network
    """Network that is reached by it."""
    via: Address
    """Next hop, an address on the network."""


class PlaceNetwork(AddressPair):
    """A physical network of a place."""

    dhcp: bool = False
    """Whether hosts get their addresses by DHCP. Then no rule can name a host by its address on this network."""
    routers: list[Address] = []
    """Default routers, at most one of each family."""
    routes: list[Route] = []
    """Further routes."""
    dns: list[Address] = []
    """Resolvers. The network outside the tunnels needs none where gateways are given by address."""
    tunnel: ShortName | None = None
    """The tunnel whose gateways lead into this network; none for a network outside all tunnels."""


class Gateways(Part):
    """The gateways of a place, one or a pair."""

    hosts: Annotated[list[Name], Field(min_length=1, max_length=2)]
    """The hosts, the preferred one first."""
    network: Name = "outer"
    """The network of the place on which peers reach them."""
    addresses: Annotated[list[Address], Field(max_length=2)] = []
    """The address that peers know, at most one of each family. A pair shares it; one gateway has its own unless set."""


class Place(Part):
    """A place: a building, a data centre, a country office."""

    number: Annotated[int, Field(ge=0, le=65535)]
    """Which slice of each tunnel's pool is this place's. It never changes once hosts are there: addresses follow it."""
    networks: dict[Name, PlaceNetwork] = {}
    """Physical networks by name."""
    gateways: Gateways | None = None
    """What the tunnels of the hosts of this place lead to."""


class Pool(AddressPair):
    """Inner addresses of a tunnel. A host's is the one at its number in the slice of its place."""

    place_prefix: Annotated[int, Field(ge=8, le=30)] = 24
    """Prefix length of a place's slice of the IPv4 pool. The slice of the IPv6 pool is always a /64."""


class Tunnel(Part):
    """A VPN: one network namespace, one XFRM interface, the services that live in it."""

    if_id: Annotated[int, Field(ge=1, le=0xFFFFFFFF)]
    """Identifier of the XFRM interface, the same on every host."""
    pool: Pool
    """Where the inner addresses of its hosts come from."""
    peers: Annotated[list[Identifier], Field(min_length=1)]
    """Zones whose hosts have this tunnel. Gateways of their places always have it."""
    selectors: list[Network] = []
    """What a host reaches through it (traffic selectors). Unless set: the pool and the tunnel's networks."""
    members: list[Unit] = []
    """Units that live in the tunnel's namespace, on each host whose product has them."""
    mtu: Annotated[int, Field(ge=1280, le=9000)] = 1400
    """Largest packet inside, bytes. ESP in UDP needs about 80 more."""
    dns: list[Address] = []
    """Resolvers inside the tunnel. Unless set nothing is resolved there but the hosts of the site that it reaches."""


class Zone(Part):
    """A named set of hosts and networks that rules speak of."""

    products: list[Identifier] = []
    """Hosts of these products."""
    places: list[Name] = []
    """Only of these places, if ``products`` is given; else all hosts of these places."""
    hosts: list[NamePattern] = []
    """Hosts by name or shell pattern."""
    networks: list[
        Annotated[str, _text("[a-z0-9-]+/[a-z0-9-]+", 127, "place/network", "write it as place/network")]
    ] = []
    """Networks as ``place/network``."""
    addresses: list[Network] = []
    """Networks that the site does not describe, for rules with ``via: outer``."""
    without: list[NamePattern] = []
    """Hosts to leave out, by name or shell pattern."""


class Service(Part):
    """What may be reached: protocol, ports, and who may ask for it."""

    tcp: list[Port | PortRange] = []
    """TCP ports, numbers or ranges as ``"6000-6010"``."""
    udp: list[Port | PortRange] = []
    """UDP ports."""
    icmp: bool = False
    """Echo requests. Errors that belong to a connection pass anyway."""
    user: User | None = None
    """The only user whose processes may send it; the products of all hosts that ask have it. Unless set any may."""

    @model_validator(mode="after")
    def _some(self) -> Service:
        if not (self.tcp or self.udp or self.icmp):
            raise ValueError("no port is given; give tcp, udp or icmp")
        return self


class Rule(Part):
    """Who may reach what. Everything else is refused."""

    sources: Annotated[list[Identifier], Field(alias="from", min_length=1)]
    """Zones that ask."""
    destinations: Annotated[list[Identifier], Field(alias="to", min_length=1)]
    """Zones that answer."""
    services: Annotated[list[Identifier], Field(min_length=1)]
    """What they may reach there."""
    via: ShortName
    """The tunnel it goes through; ``outer`` for the network outside, in clear."""
    comment: Line | None = None
    """Why, for the report and for the counters of the ruleset."""


class RawRule(Part):
    """A rule in nft's own words, for what the model cannot say. It is checked by nft and shown in the report."""

    zone: Identifier
    """Hosts that get it."""
    ruleset: ShortName
    """``host``, or the tunnel whose namespace gets it."""
    chain: Literal["input", "forward", "output"]
    """Chain that gets it, before the rule that logs and refuses."""
    rule: Line
    """The statement, as in nft(8), without the chain."""
    reason: Line
    """Why the model is not enough; it is shown in the report."""


class Confined(Part):
    """A unit that is confined in another way than the images do it. Its drop-in takes the place of theirs."""

    zone: Identifier
    """Hosts whose unit it is."""
    unit: ConfinedUnit
    """The unit."""
    profile: Identifier
    """A profile of ``confinement_profile_directories``, else of the collection (``files/confinement``)."""
    settings: dict[str, bool | int | str | list[str]] = {}
    """Directives that take the place of the profile's, by their names in systemd.exec(5)."""
    reasons: dict[str, Line] = {}
    """Why the unit needs each of them, by directive."""
    threshold: Annotated[float, Field(gt=0, le=10)] | None = None
    """Highest exposure (``systemd-analyze security``) that is accepted, in place of the profile's."""


class Interface(Part):
    """A network interface of a host; it gets the name of its key."""

    network: Name | None = None
    """Network of the host's place. Unless set: the one named as the interface."""
    mac: Mac | None = None
    """Hardware address by which the interface is known."""
    path: Line | None = None
    """Or its path (``ID_PATH`` of udev), as ``pci-0000:00:03.0``; patterns are allowed."""
    dhcp: bool | None = None
    """Overrides that of the network."""
    addresses: list[Address] = []
    """Overrides the rule that a host has the address at its number in the network."""


class Disk(Part):
    """Which disk of a machine is installed to. All that is given must hold, and for exactly one disk."""

    path: Line | None = None
    """Device, as ``/dev/nvme0n1``. It may be another one after a change of the hardware; a serial number may not."""
    serial: Line | None = None
    """Serial number."""
    wwn: Line | None = None
    """World Wide Name."""
    model: Line | None = None
    """Model."""
    transport: Line | None = None
    """Transport as lsblk(8) names it: ``nvme``, ``sata``, ``sas``, ``virtio``, ..."""
    minimum_size: Bytes | None = None
    """Least size, bytes."""
    maximum_size: Bytes | None = None
    """Greatest size, bytes."""

    @property
    def rule(self) -> dict[str, str | int]:
        """What is given."""
        return self.model_dump(exclude_none=True)

    @model_validator(mode="after")
    def _some(self) -> Disk:
        if not self.rule:
            raise ValueError("says nothing of the disk; give serial, model, transport or a size")
        return self


class Sizes(Part):
    """How much of the disk is for what, in bytes. Unless set the installer's own values count."""

    esp_size: Bytes | None = None
    """EFI system partition."""
    swap_size: Bytes | None = None
    """Swap."""
    state_size: Bytes | None = None
    """State volume. Unless set it takes 60 % of what the others leave."""
    core_size: Bytes | None = None
    """Each of the two volumes for a core."""


class Bmc(Part):
    """The power controller of a machine. User and password are variables, from a file of ansible-vault."""

    address: HttpsAddress
    """Where its Redfish service answers."""
    system: Annotated[str, _text("[A-Za-z0-9._-]+", 255, "system", "write the last part of its @odata.id")] | None = (
        None
    )
    """Which of the controller's systems it is: its ``Id``, the last part of its ``@odata.id``. Unless set there has to
    be a single one."""


class Machine(Part):
    """How the machine of a host is known when it comes, and how it is installed."""

    trust: Literal["tpm", "software_tpm", "no_tpm"] = Field(default="tpm", alias="class")
    """``software_tpm`` and ``no_tpm`` say that what the machine proves is worth less, or that it proves nothing."""
    admit: Literal["listed", "serial", "approval"] | None = None
    """``listed``: by ``ek_sha256``; ``serial``: by serial number and a TPM that a known manufacturer certifies;
    ``approval``: an administrator looks at each. Unless set: ``listed`` with an ``ek_sha256``, else ``approval``."""
    ek_sha256: Sha256 | None = None
    """SHA-256 of the endorsement key of its TPM (SubjectPublicKeyInfo)."""
    ek_certificate: bool = False
    """Whether a known manufacturer has to certify the TPM; with ``admit: serial`` it always has to."""
    serial: Line | None = None
    """Serial number of the machine."""
    macs: list[Mac] = []
    """Hardware addresses it may come with, beside those of its interfaces."""
    disk: Disk | None = None
    """Overrides ``provisioning.disk`` as a whole."""
    sizes: Sizes = Sizes()
    """Override those of ``provisioning.sizes``, one by one."""
    hardware_profile: HardwareProfile | None = None
    """The hardware profile of its product that it is installed with. Unless set: the one that its DMI data fit."""
    bmc: Bmc | None = None
    """Its power controller. Unless set somebody switches it on."""

    @property
    def admitted(self) -> Literal["listed", "serial", "approval"]:
        """By what it is known."""
        return self.admit or ("listed" if self.ek_sha256 is not None else "approval")


class Host(Part):
    """A machine."""

    product: Identifier
    """What is installed on it."""
    place: Name
    """Where it belongs. A laptop keeps it when it travels."""
    number: Annotated[int, Field(ge=1, le=0xFFFFFF)]
    """Unique in its place; its addresses follow from it, so it never changes. A range counts up from it."""
    interfaces: dict[ShortName, Interface] = {}
    """Its network interfaces. Unless set: DHCP on whatever is wired."""
    addresses: dict[ShortName, list[Address]] = {}
    """Inner addresses by tunnel, in place of those that follow from the number."""
    profile: Literal["dr", "modern"] | None = None
    """Overrides ``ipsec.profile``."""
    machine: Machine | None = None
    """Its hardware, for a host that is installed over the network."""


class Ipsec(Part):
    """Cryptography of the tunnels."""

    profile: Literal["dr", "modern"] = "dr"
    """``dr``: ECDSA and Diffie-Hellman on 256-bit curves, AES-256. ``modern`` adds ML-KEM-768 if both ends have it."""


class Time(Part):
    """Where hosts take their time from."""

    servers: Annotated[list[Name], Field(min_length=1)]
    """Hosts that serve time."""
    via: ShortName
    """The tunnel they are reached through."""
    service: Identifier
    """The service by which policy lets hosts reach them."""
    upstream: list[HostName] = []
    """Where the servers take theirs from, with NTS."""


class Logs(Part):
    """Where hosts send their logs."""

    collectors: Annotated[list[Name], Field(min_length=1, max_length=2)]
    """Hosts that collect them; the second takes over when the first cannot be reached."""
    via: ShortName
    """The tunnel they are reached through."""
    service: Identifier
    """The service by which policy lets hosts reach them."""
    port: Port = 2514
    """TCP port of the collector."""


class Updates(Part):
    """Where hosts take new versions of their products from."""

    servers: Annotated[list[Name], Field(max_length=1)] = []
    """The host that offers them."""
    server: HttpsAddress | None = None
    """In place of a host: a server behind a gateway. Its name is in ``domain``: the site's authority signs no other."""
    address: Address | None = None
    """Address of ``server``, in a network that the tunnel leads to. Nobody is asked for it."""
    via: ShortName
    """The tunnel it is reached through, whose member ``update-fetch.service`` is."""
    service: Identifier
    """The service by which policy lets hosts reach it. Its TCP port is where the server answers."""
    channel: Identifier = "stable"
    """What hosts ask for."""
    channels: dict[Identifier, Annotated[list[Identifier], Field(min_length=1)]] = {}
    """Zones whose hosts ask for another channel, by channel."""
    ask_times: list[CalendarEvent] = []
    """When hosts ask, as systemd.time(7) writes calendar events. Unless set: after each start, and every six hours."""
    reboot: Literal["by_hand", "at_once", "at_times"] = "by_hand"
    """When a new version starts: as soon as somebody restarts the host, as it is installed, or at ``restart_times``."""
    restart_times: list[CalendarEvent] = []
    """Calendar events for ``at_times``; each host waits up to half an hour longer."""
    rate: Annotated[str, _text("[1-9][0-9]{0,8}[kM]?", 10, "rate", "write bytes in a second as 500k or 2M")] | None = (
        None
    )
    """Bytes in a second that a download may take."""
    hawkbit: Tenant | None = None
    """Tenant of Eclipse hawkBit behind the same server: it then says which hosts take a version, and when."""

    @model_validator(mode="after")
    def _one(self) -> Updates:
        if bool(self.servers) == (self.server is not None):
            raise ValueError(
                "it takes one server; give either servers, a host of the site, or server, one behind a gateway"
            )
        if (self.server is None) != (self.address is None):
            raise ValueError("server and address belong together; give both")
        if (self.reboot == "at_times") != bool(self.restart_times):
            raise ValueError("reboot: at_times and restart_times belong together; give both")
        return self


class RoleAccess(Part):
    """How people in a role reach the hosts."""

    via: ShortName
    """The tunnel in which the role's sshd listens."""
    authorities: list[Line] = []
    """Public keys of ssh certificate authorities."""
    principals: list[Name] = []
    """Principals that a certificate has to name one of."""
    keys: list[Line] = []
    """Public keys that need no certificate."""


class Access(Part):
    """The two roles of people. There is no third, and none is root."""

    admin: RoleAccess
    """May change the listed configuration."""
    audit: RoleAccess
    """May read the journal."""


class Pki(Part):
    """Certificates of the site."""

    directory: Line = "pki"
    """Where the public part lies, from the directory of the site file on: ``ca/*.pem`` and ``hosts/NAME.pem``."""
    warn_days: Annotated[int, Field(ge=0, le=3650)] = 30
    """A certificate that ends within so many days is reported."""


class Provisioning(Part):
    """Installation over the network (``docs/provisioning.md``)."""

    server: HttpsAddress
    """Where machines reach the provisioning server. Its name is in ``domain``: the site's authority signs no other."""
    releases: dict[Identifier, Version] = {}
    """Version to install, by product. Unless set: the one that the provisioning server is given."""
    disk: Disk | None = None
    """Which disk is installed to, where a host does not say it."""
    sizes: Sizes = Sizes()
    """How much of the disk is for what, where a host does not say it."""


class Product(Part):
    """What a product of the site's own brings."""

    units: list[Unit]
    """Its units that tunnels may have as members."""
    users: list[User] = []
    """Its users that services may be bound to."""


class Site(Part):
    """The whole site."""

    plugin: Literal["vauban.fleet.site"] | None = None
    """Lets Ansible find the inventory plugin where ``ansible.cfg`` does not name it."""
    site: Name
    """Name of the site; that of the output directory too."""
    domain: Domain
    """Domain of all hosts. A host's identity in certificates is ``HOST.DOMAIN``."""
    ipv6: bool = False
    """``off`` refuses IPv6 in the kernel and in every ruleset; it is not merely left out."""
    ipsec: Ipsec = Ipsec()
    """Cryptography of the tunnels."""
    pki: Pki = Pki()
    """Certificates."""
    places: Annotated[dict[Name, Place], Field(min_length=1)]
    """Places by name."""
    tunnels: dict[ShortName, Tunnel] = {}
    """Tunnels by name, which is that of the namespace and of the interface too."""
    zones: dict[Identifier, Zone] = {}
    """Zones by name."""
    services: dict[Identifier, Service] = {}
    """Services by name."""
    policy: list[Rule] = []
    """All that is allowed."""
    raw: list[RawRule] = []
    """Rules that the model cannot express."""
    confinement: list[Confined] = []
    """Units that are confined in another way than the images do it."""
    confinement_profile_directories: list[Line] = []
    """Directories with confinement profiles of the site's own, from the directory of the site file on. They come before
    those of the collection, and are written like them; what they say of ``units`` is for images."""
    time: Time | None = None
    """Time."""
    logs: Logs | None = None
    """Logs."""
    updates: Updates | None = None
    """New versions. Without it hosts stay with what they have."""
    access: Access | None = None
    """People."""
    provisioning: Provisioning | None = None
    """Installation over the network."""
    products: dict[Identifier, Product] = {}
    """Products beside those of the collection (``files/products.yml``)."""
    hosts: Annotated[dict[HostPattern, Host], Field(min_length=1)]
    """Hosts by name, or ranges of them."""
