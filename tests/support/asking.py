# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine with role update_client that asks nginx with the configuration of role boot_server, in one namespace."""

from __future__ import annotations

import datetime as dt
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import boot_files
import hosts
import rendering
from certificates import P256, Authority, ec_key, pem
from hosts import Host
from sdk import SDK, unpacked
from updates import PRODUCT, write_channel, write_release

from ansible_collections.vauban.fleet.plugins.module_utils._boot import key_directory
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import KeyRequest, ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._update import reports
from ansible_collections.vauban.fleet.plugins.module_utils._update.reports import Report

NAME, USER, STATE = "updates.example.org", "nobody", "/var/lib/update"
OS_RELEASE = f'IMAGE_ID={PRODUCT}\nIMAGE_VERSION="1.0.0"\nVAUBAN_SECURITY_EPOCH=1\n'
RESOLVE = f"{NAME}:443:127.0.0.1"
RUN = f"STATE_DIRECTORY={STATE} RUNTIME_DIRECTORY=/run/update-fetch exec /bin/sh /usr/lib/vauban/update-fetch"
# No systemd runs there; of its units that one is wanted which the others wait for.
SYSTEMCTL = """#!/bin/sh
case "$*" in *is-active*) exit 3 ;; esac
echo "$*" >> /run/asked
[ "$*" = "start revocations.service" ] || exit 0
mkdir -p /var/lib/revocations /run/revocations
RUNTIME_DIRECTORY=/run/revocations exec sh /usr/lib/vauban/revocations
"""

Started = tuple[Host, Path]


class Updates:
    """A machine, the server that it asks, and the keys of both signers."""

    def __init__(self, machine: Host, keys: Path, directory: Path) -> None:
        self.machine, self.keys, self.directory = machine, keys, directory
        self.product_keys = ProductKeys(keys)
        self.store = machine.root / "srv/vauban"
        self.channel = self.store / f"update/v1/{PRODUCT}/stable.p7m"

    def reset(self) -> None:
        """As a machine that has never asked, and a server without releases."""
        script = f"rm -rf /srv/vauban {STATE} /run/update-fetch /var/lib/update-install /var/lib/revocations"
        script += f"; mkdir -p /srv/vauban/releases; install -d -o {USER} {STATE} /run/update-fetch"
        self.machine("sh", "-euc", script)
        self.machine.write("/usr/lib/os-release", OS_RELEASE)
        self.publish_list()
        shutil.rmtree(self.directory, ignore_errors=True)

    def publish(self, version: str = "1.1.0", *, signer: str = "release", revocations: int = 1, **changes: Any) -> Path:
        """Put a release there, and let the channel offer it.

        :param revocations: number of the list that the channel names.
        """
        release = self.store / "releases" / PRODUCT / version
        write_release(release, self.keys, version, signer=signer, **changes)
        write_channel(self.channel, self.keys, release, revocations=revocations)
        return release

    def publish_list(self, content: bytes | None = None) -> None:
        """Put the list of revoked certificates there."""
        place = self.channel.with_name("root.crl")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(self.product_keys.revocations.read_bytes() if content is None else content)

    def fetch(self) -> tuple[int, str]:
        """Status, and what the journal would say."""
        done = self.machine.ask("sh", "-euc", RUN, user=USER)
        return done.returncode, done.stdout + done.stderr

    def lines(self) -> list[str]:
        """What the server has logged for module update_reports, the latest last."""
        return self.machine("journalctl", "--output=cat", "--all", "SYSLOG_IDENTIFIER=vauban_update").splitlines()

    def reports(self) -> list[Report]:
        """What is a report of that."""
        found = [reports.reduce([line], now=time.time()) for line in self.lines()]
        return [report for each in found for report in each.reports.values()]

    def heard(self) -> Report:
        """What the server hears when it is asked now."""
        before = len(self.reports())
        self.fetch()
        hosts.wait_for(lambda: len(self.reports()) > before, "a line in the journal")
        return self.reports()[before]

    def offer(self) -> set[str]:
        """What lies there to be installed."""
        directory = self.machine.root / STATE[1:] / "offer"
        return {path.name for path in directory.iterdir()} if directory.is_dir() else set()


def product_keys(sandbox: Sandbox, directory: Path) -> ProductKeys:
    """Keys of a product that were made the day before yesterday, so that what is signed may be some days old."""
    keys = ProductKeys(directory / "keys" / PRODUCT)
    request = KeyRequest(name=PRODUCT, kind="development")
    key_directory.ensure(keys, request, sandbox, now=dt.datetime.now(dt.UTC) - dt.timedelta(days=2))
    return keys


def prepare(host: Host, keys: ProductKeys) -> None:
    """Give a host what an image has, its version and whom it believes, and what stands for systemd."""
    host.write("/usr/lib/os-release", OS_RELEASE)
    for path in (keys.public("root"), keys.revocations):
        host.write(f"/usr/lib/vauban/trust/{path.name}", path.read_text())
    host.write("/usr/local/bin/systemctl", SYSTEMCTL, mode="0755")


@contextmanager
def started(sandbox: Sandbox, authority: Authority, directory: Path, **variables: Any) -> Iterator[Started]:
    """The machine, and the product's key directory.

    :param authority: of the server's certificate.
    :param variables: of role update_client, in place of those that lead to that nginx.
    """
    hosts.require()
    tree = unpacked()
    keys = product_keys(sandbox, directory)
    files = directory / "files"
    boot_files.lay_down(files, boot_server_name=NAME, boot_server_enrolment_socket="")
    rendering.lay_down("signatures", files)
    leads = {"update_client_url": f"https://{NAME}", "update_client_resolve": [RESOLVE]}
    rendering.lay_down("update_client", files, **{**leads, **variables})
    with hosts.host("machine", SDK.resolve(), (files, tree), directory / "machine") as made:
        own = authority.issuing("Example Issuing", ec_key(P256))
        certificate = own.issue(NAME, ec_key(P256))
        made.write("/var/lib/vauban/https/certificate.pem", (certificate.pem + own.pem).decode())
        made.write("/var/lib/vauban/https/key.pem", pem(certificate.key).decode(), mode="0600")
        prepare(made, keys)
        made.write("/etc/machine-id", f"{hosts.MACHINE_ID}\n")
        made.write("/etc/vauban/update/authority.pem", authority.pem.decode())
        made("mkdir", "-p", "/run/nginx", "/srv/vauban")
        log = directory / "nginx.log"
        with ExitStack() as stack:
            hosts.start_journal(stack, made, directory / "journald.log")
            stack.enter_context(made.running("/usr/sbin/nginx", "-g", "user root;", log=log))
            hosts.wait_for(lambda: made.ask("curl", "-sk", "https://127.0.0.1").returncode == 0, f"nginx; see {log}")
            yield made, keys.directory
