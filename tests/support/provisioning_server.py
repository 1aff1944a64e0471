# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole provisioning server on an Ethernet segment that virtual machines can share with it.

The SDK's tree, which has Debian's packages for it, with roles boot_server, enrolment and confinement applied by
Ansible, booted (booted.py). It is ready in about twelve seconds, most of them Ansible's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hosts
import httpx
from booted import Booted, booted
from certificates import P256, Authority, ec_key, pem
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from playing import play_in_tree
from relay import relay
from sdk import unpacked

from ansible_collections.vauban.fleet.plugins.module_utils import _release_store
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._vm.options import segment_address

ADDRESS = "10.9.0.1"
NETWORK = {"network": "10.9.0.0/24", "first": "10.9.0.100", "last": "10.9.0.250"}
# Where installed machines reach it: behind the gateway.
INNER_ADDRESS, INNER_NETWORK = "10.80.1.1", "10.80.1.0/24"
UNITS = ("boot-dhcp.service", "nginx.service", "vauban-enrolment-machines.service", "vauban-enrolment-admin.service")
_CERTIFICATE = "/var/lib/vauban/https/certificate.pem"
_KEY = "/var/lib/vauban/https/key.pem"


@dataclass(frozen=True)
class ProvisioningServer:
    """A running server.

    :param url: where machines find releases and the enrolment service.
    :param address: of its interface ``lan``.
    :param authority: certificate of the authority that machines have to believe (PEM).
    :param segment: multicast group and port of its interface, for ``SegmentNic``.
    :param inner: those of its interface behind the gateway, ``inner``.
    :param admin: a client on the socket of admins, with paths from the root: ``/admin/v1/...``.
    """

    machine: Booted
    url: str
    address: str
    authority: Path
    segment: tuple[str, int]
    inner: tuple[str, int]
    admin: httpx.Client

    def publish(self, release: Path) -> None:
        """Offer the release in this directory, as module release_store does."""
        store = _release_store.Store(self.machine.root / "srv/vauban/releases")
        store.publish(_release_store.read(release), release)

    def put(self, path: str, content: Any) -> dict[str, Any]:
        """Tell the enrolment service something as an admin: ``hosts/NAME``, ``releases/PRODUCT/VERSION``."""
        answer = self.admin.put(f"/admin/v1/{path}", json=content)
        assert answer.is_success, answer.text
        return dict(answer.json())

    def journal(self, *units: str) -> str:
        """All messages, or those of some units."""
        return self.machine("journalctl", "--no-pager", *(f"--unit={unit}" for unit in units))


@contextmanager
def provisioning_server(
    directory: Path,
    *,
    sandbox: Sandbox,
    name: str = "provision.example.org",
    mode: str = "dhcp",
    installers: Sequence[dict[str, Any]] = (),
    authority: Path | None = None,
    prefix: int = 24,
    **variables: Any,
) -> Iterator[ProvisioningServer]:
    """Start it; all ends with the block. Skips where that is impossible, and says why.

    :param directory: must not exist; certificate of the authority and the layer of the roles stay in it.
    :param installers: as ``boot_server_installers``; machines that nobody knows boot the first one.
    :param authority: directory of an authority of before, as :func:`load_authority` makes it; else a new one is made.
    :param prefix: length of the prefix of the interface's network.
    :param variables: of the roles, on top of those that are set here.
    """
    hosts.require()
    directory.mkdir(parents=True)
    site = load_authority(authority or directory)
    tree = unpacked(sandbox.sdk)
    settings = {
        "boot_server_mode": mode,
        "boot_server_name": name,
        "boot_server_address": ADDRESS,
        "boot_server_interfaces": ["lan"],
        "boot_server_networks": [NETWORK] if mode != "none" else [],
        "boot_server_installers": list(installers),
        "boot_server_default": installers[0]["name"] if installers else "",
        **variables,
    }
    roles = [f"vauban.fleet.{role}" for role in ("boot_server", "enrolment", "confinement")]
    done = play_in_tree(directory, sandbox.sdk, tree, {"roles": roles}, layer=directory / "layer", **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    segment, inner = (_segment(directory.resolve() / name) for name in ("lan", "inner"))
    with ExitStack() as stack:
        machine = stack.enter_context(booted("provision", (directory / "layer/upper", tree), directory / "machine"))
        namespace = Path(f"/proc/{machine.pid}/ns/net")
        stack.enter_context(relay(namespace, "lan", *segment))
        stack.enter_context(relay(namespace, "inner", *inner))
        machine("ip", "address", "add", f"{ADDRESS}/{prefix}", "dev", "lan")
        machine("ip", "address", "add", f"{INNER_ADDRESS}/{INNER_NETWORK.partition('/')[2]}", "dev", "inner")
        certify(machine, site, name)
        machine("systemctl", "start", *UNITS)
        transport = httpx.HTTPTransport(uds=str(machine.root / "run/vauban-enrolment/admin.sock"))
        admin = stack.enter_context(httpx.Client(transport=transport, base_url="http://enrolment", timeout=60))
        pem_file = (authority or directory) / "authority.pem"
        yield ProvisioningServer(machine, f"https://{name}", ADDRESS, pem_file, segment, inner, admin)


def _segment(path: Path) -> tuple[str, int]:
    return segment_address(hashlib.sha256(str(path).encode()).hexdigest())


def load_authority(directory: Path) -> Authority:
    """The authority that certifies servers: ``authority.pem`` and ``authority.key``, made if they are not there."""
    certificate, key = directory / "authority.pem", directory / "authority.key"
    if certificate.exists():
        loaded: Any = load_pem_private_key(key.read_bytes(), None)
        return Authority(x509.load_pem_x509_certificate(certificate.read_bytes()), loaded)
    made = Authority.root("Test Site", ec_key(P256))
    directory.mkdir(parents=True, exist_ok=True)
    key.touch(mode=0o600)
    key.write_bytes(pem(made.key))
    certificate.write_bytes(made.pem)
    return made


def certify(machine: Booted, authority: Authority, name: str) -> None:
    """Give the web server its certificate, with that of the issuing authority behind it."""
    issuing = authority.issuing("Test Site, Servers", ec_key(P256))
    own = issuing.issue(name, ec_key(P256))
    machine.write(_CERTIFICATE, (own.pem + issuing.pem).decode())
    machine.write(_KEY, pem(own.key).decode(), mode="0640", owner="root:www-data")
