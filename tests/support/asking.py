# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine that asks an update server: nginx as role boot_server has it, and the programs of role update_client.

Both in the namespaces of one host, over its loopback.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import hosts
import rendering
from certificates import P256, Authority, ec_key, pem
from hosts import Host
from sdk import SDK, unpacked
from updates import PRODUCT

from ansible_collections.vauban.fleet.plugins.module_utils._boot import key_directory
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import KeyRequest, ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox
from ansible_collections.vauban.fleet.plugins.plugin_utils import _boot_server

NAME, USER, STATE = "updates.example.org", "nobody", "/var/lib/update"
RESOLVE = f"{NAME}:443:127.0.0.1"
OS_RELEASE = f'IMAGE_ID={PRODUCT}\nIMAGE_VERSION="1.0.0"\nVAUBAN_SECURITY_EPOCH=1\n'
FETCH = f"STATE_DIRECTORY={STATE} RUNTIME_DIRECTORY=/run/update-fetch exec /bin/sh /usr/lib/vauban/update-fetch"


def product_keys(sandbox: Sandbox, directory: Path) -> ProductKeys:
    """Keys of a product that were made the day before yesterday, so that what is signed may be some days old."""
    keys = ProductKeys(directory / "keys" / PRODUCT)
    request = KeyRequest(name=PRODUCT, kind="development")
    key_directory.ensure(keys, request, sandbox, now=dt.datetime.now(dt.UTC) - dt.timedelta(days=2))
    return keys


def trust(host: Host, keys: ProductKeys) -> None:
    """Give a host what an image has: its version, and whom it believes."""
    host.write("/usr/lib/os-release", OS_RELEASE)
    for name in ("release", "publish"):
        host.write(f"/usr/lib/vauban/update/{name}.pem", keys.public(name).read_text())


@contextmanager
def machine(directory: Path, keys: ProductKeys, authority: Authority) -> Iterator[Host]:
    """The host, with a server that has nothing yet (:func:`forget`)."""
    tree = unpacked()
    files = directory / "files"
    settings = {**rendering.defaults("boot_server"), "boot_server_name": NAME, "boot_server_enrolment_socket": ""}
    asked = {name: settings[f"boot_server_{name}"] for name in _boot_server.Settings.model_fields}
    rendering.lay_down("boot_server", files, __boot_server_plan=_boot_server.plan(asked), **settings)
    rendering.lay_down("update_client", files, update_client_url=f"https://{NAME}", update_client_resolve=[RESOLVE])
    with hosts.host("machine", SDK.resolve(), (files, tree), directory / "machine") as made:
        own = authority.issuing("Example Issuing", ec_key(P256))
        certificate = own.issue(NAME, ec_key(P256))
        made.write("/var/lib/vauban/https/certificate.pem", (certificate.pem + own.pem).decode())
        made.write("/var/lib/vauban/https/key.pem", pem(certificate.key).decode(), mode="0600")
        trust(made, keys)
        made.write("/etc/machine-id", f"{hosts.MACHINE_ID}\n")
        made.write("/etc/vauban/update/authority.pem", authority.pem.decode())
        made("mkdir", "-p", "/run/nginx", "/srv/vauban")
        log = directory / "nginx.log"
        with ExitStack() as stack:
            hosts.start_journal(stack, made, directory / "journald.log")
            stack.enter_context(made.running("/usr/sbin/nginx", "-g", "user root;", log=log))
            hosts.wait_for(lambda: made.ask("curl", "-sk", "https://127.0.0.1").returncode == 0, f"nginx; see {log}")
            yield made


def forget(host: Host) -> None:
    """As a machine that has never asked, and a server without releases."""
    script = f"rm -rf /srv/vauban {STATE} /run/update-fetch"
    script += f"; mkdir -p /srv/vauban/releases; install -d -o {USER} {STATE} /run/update-fetch"
    host("sh", "-euc", script)
    host.write("/usr/lib/os-release", OS_RELEASE)


def fetch(host: Host) -> tuple[int, str]:
    """Status of update-fetch, and what the journal would say."""
    done = host.ask("sh", "-euc", FETCH, user=USER)
    return done.returncode, done.stdout + done.stderr
