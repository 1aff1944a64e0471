# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A running machine whose /etc is arranged as the initrd does, and what a controller drops there."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hosts
import rendering
import yaml
from booted import Booted, booted
from updates import sign

PRODUCT, NAME = "server", "paris-files01"
OS_RELEASE = f"IMAGE_ID={PRODUCT}\nIMAGE_VERSION=1.0.0\n"
SECONDS = 20  # that a configuration is tried in tests
# Below it are the configurations, as on a state volume.
STATE = "/state/configuration"
INCOMING, RESULT = "/var/lib/vauban/drop/incoming", "/var/lib/vauban/drop/result"
_ARRANGE = f"""
mkdir -p /state
mount -t tmpfs -o nodev,nosuid,noexec,mode=0755 tmpfs /state
mkdir -p {STATE}/etc /state/etc
cp /etc/machine-id /state/etc/machine-id
tar -xf - -C {STATE}
mount -t overlay -o ro,nodev,nosuid,noexec,lowerdir={STATE}/etc:/etc overlay /etc
mount --bind /state/etc/machine-id /etc/machine-id
systemd-tmpfiles --create vauban-admin_access.conf
systemctl daemon-reload
"""

Tree = Mapping[str, str]
Entry = tuple[tarfile.TarInfo, bytes]


def rulesets(*ports: int) -> list[dict[str, Any]]:
    """The machine lets in what goes to these ports."""
    host = yaml.safe_load((rendering.ROLES / "firewall/vars/main.yml").read_text())["__firewall_rulesets"][0]
    nothing = dict.fromkeys(("source", "destination", "user", "interface"))
    common = {"family": "ipv4", "protocol": "tcp", "source_ports": [], **nothing}
    return [{**host, "input": [{**common, "comment": f"port {port}", "ports": [port]} for port in ports], "output": []}]


def tree(*ports: int, key: str = "", address: str = "", name: str = NAME, **more: str) -> dict[str, str]:
    """A configuration: who the machine is, what its firewall lets in, and how an administrator gets in.

    :param address: of the ssh server; there is none without it.
    :param more: further files; two underscores stand for a slash.
    """
    instance = {"name": "admin", "tunnel": "", "addresses": [address], "port": 22, "public_keys": [key] if key else []}
    instance |= {"authorities": [], "principals": [], "revoked": []}
    return {
        "etc/hostname": f"{name}\n",
        **rendering.render("firewall", firewall_rulesets=rulesets(*ports), firewall_log_rate="10/minute"),
        **rendering.render("admin_access", admin_access_instances=[instance] if address else []),
        **{path.replace("__", "/"): content for path, content in more.items()},
    }


def entry(path: str, content: bytes = b"", *, kind: bytes = tarfile.REGTYPE, **changes: Any) -> Entry:
    """A member of an archive, and what is in it."""
    member = tarfile.TarInfo(path)
    member.type, member.mode, member.size = kind, 0o644, len(content)
    for attribute, value in changes.items():
        setattr(member, attribute, value)
    return member, content


def entries(files: Tree) -> list[Entry]:
    """Those of a configuration."""
    return [entry(path, content.encode()) for path, content in sorted(files.items())]


def archive(members: Sequence[Entry]) -> bytes:
    """As ``plugin_utils/_site/archive.py`` would write it, if that wrote whatever it is told to."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0, compresslevel=1) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as made,
    ):
        for member, content in members:
            made.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def statement(content: bytes, number: int, /, **changes: Any) -> dict[str, Any]:
    """What a controller signs."""
    return {
        "format": 1,
        "product": PRODUCT,
        "host": NAME,
        "number": number,
        "revocations": 1,
        "issued": "2026-11-23T09:00:00Z",
        "archive": {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()},
        **changes,
    }


class Machine:
    """A host with role configuration_client, seen as its administrator sees it.

    :param keys: the product's key directory.
    :param scratch: for what is signed.
    """

    def __init__(self, host: Booted, keys: Path, scratch: Path) -> None:
        self.host, self.keys, self._scratch = host, keys, scratch

    def sign(self, said: Mapping[str, Any], *, signer: str = "configuration") -> bytes:
        """The signed statement."""
        (self._scratch / "statement.json").write_text(json.dumps(said))
        sign(self._scratch / "statement.json", self.keys, signer, self._scratch / "signed", attached=True)
        return (self._scratch / "signed").read_bytes()

    def drop(self, content: bytes, signed: bytes) -> None:
        """Leave both there, the signed one last, as sftp would."""
        place = self.host.root / INCOMING[1:]
        for name, data in (("configuration.tar.gz", content), ("configuration.p7m", signed)):
            new = place / f"{name}.part"
            new.write_bytes(data)
            self.host("chown", "admin:admin", f"{INCOMING}/{name}.part")
            new.rename(place / name)

    def confirm(self, number: int) -> None:
        """What the controller says when it has come again."""
        self.host.write(f"{INCOMING}/configuration.confirm", f"{number}\n", owner="admin:admin", mode="0600")

    def result(self) -> dict[str, Any]:
        """What admin reads."""
        path = self.host.root / RESULT[1:] / "configuration.json"
        return dict(json.loads(path.read_text())) if path.exists() else {"last": None, "present": {"number": None}}

    def outcome(self, signed: bytes, *, within: float = 60.0, ended: bool = True) -> dict[str, Any]:
        """What became of that.

        :param ended: wait until it is decided.
        """
        received = hashlib.sha256(signed).hexdigest()

        def told() -> bool:
            last = self.result()["last"] or {}
            return last.get("received") == received and not (ended and last["state"] == "trying")

        try:
            hosts.wait_for(told, "a result", within=within)
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{self.host.journal()}") from exc
        return dict(self.result()["last"])

    def bring(self, files: Tree, number: int) -> dict[str, Any]:
        """Drop a configuration, and confirm it."""
        content = archive(entries(files))
        signed = self.sign(statement(content, number))
        self.drop(content, signed)
        if self.outcome(signed, ended=False)["state"] == "trying":
            self.confirm(number)
        return self.outcome(signed)

    def in_force(self) -> dict[str, str]:
        """The files on the state volume, without the machine's own."""
        top = self.host.root / STATE[1:]
        paths = [path for path in (top / "etc").rglob("*") if path.is_file() and "configuration" not in path.parts[-2]]
        return {str(path.relative_to(top)): path.read_text() for path in paths}


@contextmanager
def machine(name: str, lower: Sequence[Path], keys: Path, directory: Path, files: Tree) -> Iterator[Machine]:
    """Start one that was installed with a configuration.

    :param lower: a tree with the roles' files, the topmost layer first.
    """
    with booted(name, lower, directory / name) as host:
        _run(host.argv("sh", "-euc", _ARRANGE), gzip.decompress(archive(entries(files))))
        made = Machine(host, keys, directory)
        host.write("/run/os-release", OS_RELEASE)
        host("mount", "--bind", "/run/os-release", "/usr/lib/os-release")
        host("systemctl", "restart", "nftables.service")
        host("systemctl", "start", "configuration-report.service", "configuration-apply.path")
        yield made


def _run(argv: Sequence[str], stdin: bytes) -> None:
    done = subprocess.run(argv, input=stdin, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
