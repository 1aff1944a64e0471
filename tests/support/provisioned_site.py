# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A site of a gateway and a server, as its administrator has it on the controller, with its provisioning server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ansible.utils.vars import merge_hash
from bare import Bare, bare_machine
from playing import COLLECTIONS
from provisioning_server import INNER_NETWORK, NETWORK, ProvisioningServer

from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._vm.spec import SegmentNic

ROOT = Path(__file__).resolve().parents[2]
GATEWAY, SERVER = "paris-gw1", "paris-files1"
GATEWAY_MAC, GATEWAY_INNER_MAC, SERVER_MAC = "52:54:00:00:00:03", "52:54:00:00:01:03", "52:54:00:00:00:14"
# What follows from the model below: the server's address in the tunnel, the gateway's behind it.
POOL, TUNNEL_ADDRESS, INNER_GATEWAY = "10.67.0.0/16", "10.67.1.20", "10.80.1.3"
_PASSPHRASES = {f"site_pki_{name}_passphrase": f"passphrase of the {name}" for name in ("root", "issuing", "host")}


def model(url: str, machines: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The site file. Installed machines reach the provisioning server through the tunnel only.

    :param machines: how each host's machine is known.
    """

    def host(product: str, number: int, **macs: str) -> dict[str, Any]:
        name = {"gateway": GATEWAY, "server": SERVER}[product]
        interfaces = {interface: {"mac": mac} for interface, mac in macs.items()}
        common = {"product": product, "place": "paris", "number": number, "interfaces": interfaces}
        return {**common, "machine": dict(machines[name])}

    return {
        "site": "small",
        "domain": "example.org",
        "provisioning": {
            "server": url,
            "disk": {"serial": "system"},
            "sizes": {"esp_size": 128 << 20, "swap_size": 64 << 20, "state_size": 64 << 20, "core_size": 256 << 20},
        },
        "places": {
            "paris": {
                "number": 1,
                "networks": {
                    "outer": {"ipv4": NETWORK["network"]},
                    "inner": {"ipv4": INNER_NETWORK, "tunnel": "update"},
                },
                "gateways": {"hosts": [GATEWAY]},
            }
        },
        "tunnels": {
            "update": {"if_id": 3, "pool": {"ipv4": POOL}, "peers": ["machines"], "members": ["attestation.service"]}
        },
        "zones": {"machines": {"products": ["gateway", "server"]}, "provisioning": {"networks": ["paris/inner"]}},
        "services": {"provisioning": {"tcp": [443], "user": "attestation"}},
        "policy": [{"from": ["machines"], "to": ["provisioning"], "services": ["provisioning"], "via": "update"}],
        "hosts": {
            GATEWAY: host("gateway", 3, outer=GATEWAY_MAC, inner=GATEWAY_INNER_MAC),
            SERVER: host("server", 20, outer=SERVER_MAC),
        },
    }


def bare_machines(
    sandbox: Sandbox, gateway_keys: ProductKeys, server: ProvisioningServer, directory: Path
) -> dict[str, Bare]:
    """A gateway, and a server that it leads to the network behind it.

    :param gateway_keys: of product gateway; those of product server lie beside them.
    :param directory: for all that they consist of.
    """
    places = {name: directory / name for name in (GATEWAY, SERVER)}
    for place in places.values():
        place.mkdir(parents=True)
    inner = SegmentNic(*server.inner, mac=GATEWAY_INNER_MAC)
    keys = ProductKeys(gateway_keys.directory.parent / "server")
    return {
        GATEWAY: bare_machine(sandbox, gateway_keys, places[GATEWAY], server.segment, GATEWAY_MAC, others=[inner]),
        SERVER: bare_machine(sandbox, keys, places[SERVER], server.segment, SERVER_MAC),
    }


class Site:
    """The controller's side.

    :param directory: for the inventory and for all that playbooks write.
    :param machines: how each host's machine is known.
    :param more: what the site file says besides; lists are appended.
    """

    def __init__(
        self,
        directory: Path,
        server: ProvisioningServer,
        releases: Sequence[Path],
        machines: Mapping[str, Mapping[str, Any]],
        more: Mapping[str, Any] | None = None,
    ) -> None:
        self.directory, self.report = directory, directory / "report.json"
        self._inventory, self._more = directory / "inventory", more or {}
        self._inventory.mkdir(parents=True)
        self.file = self._inventory / "small.site.yml"
        self._url = server.url
        self.know(machines)
        boot = {
            "ansible_connection": "entered",
            "ansible_host": str(server.machine.pid),
            "ansible_python_interpreter": "/usr/bin/python3",
            "boot_server_releases": [str(release) for release in releases],
        }
        variables = {
            "fleet_build_dir": str(ROOT / "build"),
            "fleet_sites_dir": str(directory / "sites"),
            "site_pki_keys_dir": str(directory / "keys"),
            "site_pki_keys": "installer",
            "provision_report_path": str(self.report),
            "provision_pause": 2,
            **_PASSPHRASES,
        }
        servers = {"provisioning_servers": {"hosts": {"boot": boot}}}
        content = {"all": {"children": servers, "vars": variables}}
        (self._inventory / "hosts.yml").write_text(yaml.safe_dump(content))

    def know(self, machines: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the site file, with these machines."""
        site = merge_hash(model(self._url, machines), self._more, recursive=True, list_merge="append")
        self.file.write_text(yaml.safe_dump(site, sort_keys=False))

    def printed(self) -> str:
        """All that playbooks have said."""
        return "".join(path.read_text() for path in self.directory.glob("*.log"))

    def play(self, name: str, *options: str) -> str:
        """What a playbook has printed when it has ended, which has to be well."""
        with self.playing(name, *options) as playing:
            return playing.end(within=600)

    @contextmanager
    def playing(self, name: str, *options: str) -> Iterator[Playing]:
        """A playbook that runs while the block does, at most."""
        words = ["-i", str(self._inventory), str(ROOT / f"playbooks/{name}.yml"), *options]
        environment = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS)}
        environment["ANSIBLE_CONNECTION_PLUGINS"] = str(ROOT / "tests/support/connection")
        log = self.directory / f"{name}.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "ansible", "playbook", *words],
                cwd=self.directory,
                env={**os.environ, **environment, "LC_ALL": "C.UTF-8"},
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        try:
            yield Playing(process, log)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(60)


@dataclass(frozen=True)
class Playing:
    """A playbook that runs."""

    process: subprocess.Popen[bytes]
    log: Path

    def wait_for(self, text: str, *, within: float) -> None:
        """Until it has printed this."""
        end = time.monotonic() + within
        while text not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.2)

    def end(self, *, within: float) -> str:
        """All that it has printed, when it has ended well."""
        self.process.wait(within)
        assert self.process.returncode == 0, self.log.read_text()
        return self.log.read_text()
