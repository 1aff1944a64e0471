# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""IPsec daemons in network namespaces, with the configuration that the roles give them.

What differs from a machine: ESP in user space (plugin kernel-libipsec), because not every kernel has it, a log in a
file, and the places of files. The daemon runs as on a machine, as user 200 with CAP_NET_ADMIN alone.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

import rendering
from ansible.module_utils.compat.version import LooseVersion
from certificates import Certificate, pem
from lab import SHARED, Lab

USER = 200
_UNPRIVILEGED = [
    "setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs",
    "--inh-caps=-all,+net_admin", "--ambient-caps=-all,+net_admin", "--bounding-set=-all,+net_admin",
]  # fmt: skip
_OVERRIDES = """
charon-systemd {{
  load = {plugins}
  {settings}
  plugins {{
    vici {{
      socket = unix://{place}/vici
    }}
  }}
  filelog {{
    test {{
      path = {place}/log
      flush_line = yes
      default = 1
      cfg = 2
      ike = 2
      enc = 1
    }}
  }}
}}
swanctl {{
  plugins {{
    vici {{
      socket = unix://{place}/vici
    }}
  }}
}}
"""


class Daemon:
    """charon in a namespace, with files of its own.

    :param role: ``client`` or ``gateway``; unless given, the namespace is named so.
    :param settings: of the daemon, beside or in place of those of the role.
    :param root: the root tree whose programs it runs, if not those of the SDK.
    """

    def __init__(
        self, lab: Lab, namespace: str, *, role: str | None = None, settings: str = "", root: str | None = None
    ) -> None:
        self.lab = lab
        self.namespace = namespace
        self._role = role or namespace
        self._settings = settings
        self._root = ["chroot", root] if root else []
        # The directories of templates that the role lays down for this daemon.
        self._trees = ["root"]
        self.place = f"{SHARED}/{namespace}"
        self.directory = lab.directory / namespace
        self._etc = self.directory / "etc"
        self._environment = {
            "STRONGSWAN_CONF": f"{self.place}/etc/strongswan.conf",
            "SWANCTL_DIR": f"{self.place}/etc/swanctl",
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._read = 0

    def start(self) -> None:
        """Start it with no connections, and wait until it answers."""
        rendering.lay_down("strongswan", self.directory, strongswan_connections=[])
        rendering.lay_down(f"ipsec_{self._role}", self.directory)
        settings = (self._etc / "strongswan.conf").read_text()
        plugins = re.findall(r"load = (nonce .* kernel-netlink .*)", settings)[0]
        plugins = plugins.replace("kernel-netlink", "kernel-libipsec kernel-netlink")
        overrides = _OVERRIDES.format(plugins=plugins, place=self.place, settings=self._settings)
        (self._etc / "strongswan.conf").write_text(settings + overrides)
        self.directory.chmod(0o777)
        self._launch()
        version = re.findall(r"strongSwan ([0-9.]+)", self.swanctl("--version", "--daemon").stdout)[0]
        if LooseVersion(version) >= LooseVersion(rendering.constants("strongswan")["__strongswan_ml_kem_since"]):
            self._trees.append("ml_kem")

    def restart(self) -> None:
        """Kill it, as a power cut would, and start it anew."""
        self.stop()
        self._launch()

    def _launch(self) -> None:
        for name in ("vici", "log"):
            (self.directory / name).unlink(missing_ok=True)
        self._read = 0
        script = f'echo $$ > {self.place}/pid; exec "$@"'
        words = ["sh", "-euc", script, "sh", *self._root, *_UNPRIVILEGED, "charon-systemd"]
        argv = self.lab.argv(words, self.namespace)
        environment = {"PATH": "/usr/sbin:/usr/bin", **self._environment}
        self._process = subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for((self.directory / "vici").exists, "the daemon does not answer")

    def stop(self) -> None:
        """End it, however."""
        if self._process is not None:
            # The process here only waits for the one in the sandbox.
            self.lab.run("kill", "-KILL", (self.directory / "pid").read_text().strip(), check=False)
            self._process.wait()
            self._process = None

    def configure(
        self,
        connections: list[dict[str, Any]],
        *,
        own: Certificate | None,
        authorities: dict[str, bytes],
        intermediate: Sequence[bytes] = (),
        revocations: Sequence[bytes] = (),
        change: Callable[[str], str] = lambda text: text,
        **constants: Any,
    ) -> None:
        """Forget all, then load these connections and certificates as a machine does.

        :param change: makes a peer worse than a role would make it.
        :param constants: take the place of constants of the role.
        """
        self._drop_associations()
        self._write(connections, change, **constants)
        for name in ("x509", "x509ca", "x509crl", "private"):
            shutil.rmtree(self._etc / "swanctl" / name, ignore_errors=True)
            (self._etc / "swanctl" / name).mkdir()
        if own is not None:
            self._put("x509/own.pem", own.pem)
            self._put("private/own.pem", pem(own.key))
        for name, certificate in authorities.items():
            self._put(f"x509ca/{name}", certificate)
        for number, certificate in enumerate(intermediate):
            self._put(f"x509ca/intermediate{number}.pem", certificate)
        for number, crl in enumerate(revocations):
            self._put(f"x509crl/{number}.pem", crl)
        self.swanctl("--flush-certs")
        self.swanctl("--load-all", "--clear", "--noprompt")
        self.log()

    def follow(self, connections: list[dict[str, Any]], change: Callable[[str], str] = lambda text: text) -> None:
        """Forget all, then load these connections, and certificates that somebody else has laid down."""
        self._drop_associations()
        self._write(connections, change)
        self.reload()

    def replace_revocations(self, revocations: Sequence[bytes]) -> None:
        """Give it new lists, as a site does every day, and reload as its unit does."""
        for number, crl in enumerate(revocations):
            self._put(f"x509crl/{number}.pem", crl)
        self.reload()

    def reload(self) -> None:
        """Reload as its unit does."""
        unit = self.directory / "usr/lib/systemd/system/strongswan.service.d/50-strongswan.conf"
        for arguments in re.findall(r"^ExecReload=/usr/sbin/swanctl (.+)", unit.read_text(), re.MULTILINE):
            self.swanctl(*arguments.split())
        self.log()

    def swanctl(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Ask the daemon."""
        words = [*self._root, "swanctl", *arguments]
        return self.lab.run(*words, namespace=self.namespace, env=self._environment, check=check)

    def initiate(self, connection: str, child: str) -> subprocess.CompletedProcess[str]:
        """Ask it to begin."""
        timeout = ("--timeout", "8")
        return self.swanctl("--initiate", "--ike", connection, "--child", child, *timeout, check=False)

    def associations(self) -> str:
        """What is established, in the words of swanctl."""
        return self.swanctl("--list-sas").stdout

    def log(self) -> str:
        """What it has logged since the last call."""
        with (self.directory / "log").open() as stream:
            stream.seek(self._read)
            text = stream.read()
            self._read = stream.tell()
        return text

    def _drop_associations(self) -> None:
        def none() -> bool:
            found = re.findall(r"^\S+: #(\d+)", self.associations(), re.MULTILINE)
            for number in found:
                self.swanctl("--terminate", "--ike-id", number, "--force", "--timeout", "1", check=False)
            return not found

        wait_for(none, "an association stays")

    def _write(self, connections: list[dict[str, Any]], change: Callable[[str], str], **constants: Any) -> None:
        for tree in self._trees:
            found = rendering.render("strongswan", tree=tree, strongswan_connections=connections, **constants)
            for path, content in found.items():
                (self.directory / path).write_text(change(content))

    def _put(self, name: str, content: bytes) -> None:
        path = self._etc / "swanctl" / name
        path.write_bytes(content)


def wait_for(condition: Callable[[], bool], complaint: str, *, seconds: float = 10) -> None:
    """Wait until it is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, complaint
        time.sleep(0.02)


def started_by_itself(text: str) -> str:
    """What ESP in user space can do of ``connections.conf``: it has no ESN, and no policies that begin a tunnel."""
    text = re.sub("close_action = (start|trap)", "close_action = none", text.replace("-esn", "-noesn"))
    return re.sub(r"(start_action|dpd_action) = trap", r"\1 = restart", text).replace(
        "start_action = restart", "start_action = start"
    )
