# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbook backup: the data of a host come to the server, which cannot read them, and out of it by the printed line."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from endorsement import Ends
from provisioned import InstalledMachine, Site
from sdk import SDK
from tpm_machines import Tpm, machines, site_of

from ansible_collections.vauban.fleet.plugins.module_utils import _command
from ansible_collections.vauban.fleet.plugins.module_utils._command import Completed
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install import backing_up, keeping
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._tpm.binding import qualifying_data

pytestmark = pytest.mark.skipif(not SDK.exists(), reason=f"no SDK at {SDK}: run 'make build' or set FLEET_SDK")

KEY = "-".join(["cbdefghi"] * 8)
SECRET = "a secret of the host"
REASON = '{"reason": "before a repair"}'


@pytest.fixture(scope="module")
def both(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ends]:
    with machines(sandbox, tmp_path_factory.mktemp("tpm"), {"one": None}) as started:
        yield started


@pytest.fixture
def site(both: Ends, tmp_path: Path) -> Iterator[Site]:
    with site_of(both, tmp_path) as made:
        yield made


@pytest.fixture
def run(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Completed]:
    """Programs of the SDK, for people here and for the installer."""
    binds = [Bind(tmp_path, str(tmp_path), writable=True)]

    def call(argv: Sequence[Any], stdin: bytes = b"") -> Completed:
        return sandbox.run(argv, binds=binds, stdin=stdin, privileged=True)

    def pipeline(commands: Sequence[Sequence[Any]]) -> AbstractContextManager[BinaryIO]:
        return _command.pipeline([sandbox.argv(command, binds=binds, privileged=True) for command in commands])

    monkeypatch.setattr(keeping, "run", call)
    monkeypatch.setattr(backing_up, "pipeline", pipeline)
    return call


def identity(run: Callable[..., Completed], path: Path) -> str:
    """Make one; its recipient."""
    text = run(["age-keygen"]).stdout
    path.write_text(text)
    return text.partition("# public key: ")[2].partition("\n")[0]


@pytest.fixture
def installed(site: Site, both: Ends, run: Callable[..., Completed], tmp_path: Path) -> InstalledMachine:
    """A host whose recovery key officer ``ada`` opens; files of ``state`` are on its disk."""
    ada = identity(run, tmp_path / "ada")
    words = ["age", "--encrypt", "--armor", "--recipient", ada]
    site.encrypt_to(ada)
    tpm = Tpm(both, "one")
    machine = site.machine("one", tpm=tpm, start=tpm.boot, recovery_key=run(words, stdin=KEY.encode()).stdout)
    machine.start()
    done = site.play("provision", "--limit", "one")
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "state/lib").mkdir(parents=True)
    (tmp_path / "state/lib/secret").write_text(SECRET * 1000)
    (tmp_path / "state/lib/noise").write_bytes(os.urandom(3 << 20))
    return machine.done()


class Sender:
    """What the installer does when it is told to back up, with the real service, TPM, age, zstd and tar."""

    def __init__(self, site: Site, tpm: Tpm, directory: Path, order: str = "backup", cut: bool = False) -> None:
        self.site, self.tpm, self.directory, self.order, self.cut = site, tpm, directory, order, cut
        self.key = b""

    def machine(self) -> InstalledMachine:
        def ordered() -> Any:
            return self.site.server.admin.get("/admin/v1/machines/one").json()[self.order]

        return self.site.machine("one", tpm=self.tpm, start=self.tpm.boot, back_up=self.back_up, once=ordered)

    def back_up(self, machine: InstalledMachine) -> dict[str, Any]:
        try:
            return self._back_up(machine)
        except FleetError:
            machine.machine.report("failed")
            raise

    def _back_up(self, machine: InstalledMachine) -> dict[str, Any]:
        told = machine.machine.own("GET", "/backup").json()
        self.directory.mkdir(mode=0o700)
        self.key, recipients = backing_up.released(
            keeping.recovery_key(lambda made: self.ask(machine, made), self.directory)
        )

        def send(offset: int, piece: bytes) -> None:
            if self.cut and offset:
                raise FleetError("the line is cut")
            assert machine.machine.send(offset, piece).status_code == 204

        root = self.site.directory / "state"
        size, digest = backing_up.send(root, recipients, send, piece=told["piece"], largest=told["largest"])
        sent = machine.machine.own("PUT", "/backup", json={"size": size, "sha256": digest}).json()
        return {"receipt": sent["receipt"]["sha256"], "size": size, "file_system": {"journal": False}}

    def ask(self, machine: InstalledMachine, recipient: str) -> tuple[bytes, str]:
        nonce = base64.b64encode(qualifying_data(recipient)).decode()
        quote = self.tpm.quote(nonce, machine.predicted["installer"])
        assert machine.machine.own("PUT", "/unlock", json={"recipient": recipient, **quote}).status_code == 202
        machine._wait(lambda: machine.machine.own("GET", "/unlock").status_code != 202)
        given = machine.machine.own("GET", "/unlock").json()
        return self.tpm.activate(given), str(given["recovery_key"])


def on_the_server(tmp_path: Path) -> bytes:
    """All that the service keeps."""
    kept = [*tmp_path.glob("enrolment.sqlite*"), *(tmp_path / "backups").glob("*")]
    return b"".join(path.read_bytes() for path in kept)


def test_data_come_out_as_they_were_by_the_printed_line(
    site: Site, both: Ends, installed: InstalledMachine, run: Callable[..., Completed], tmp_path: Path
) -> None:
    recipient = identity(run, tmp_path / "keeper")
    (tmp_path / "recipients").write_text(f"# who keeps backups\n{recipient}\n")
    sender = Sender(site, Tpm(both, "one"), tmp_path / "tmpfs")
    words = [
        "--limit",
        "one",
        "-e",
        REASON,
        "-e",
        f"identity={tmp_path}/ada",
        "-e",
        f"recipients={tmp_path}/recipients",
    ]
    done = site.play("backup", *words, "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert site.server.last()["action"] == "installed", "nothing was ordered"
    machine = sender.machine()
    machine.start()
    done = site.play("backup", *words, "-e", f"backup_fetch={tmp_path}/fetched", "-vvv")
    assert done.returncode == 0, done.stdout + done.stderr
    machine.done()
    assert sender.key.decode() == KEY
    known = site.server.admin.get("/admin/v1/machines/one").json()
    assert (known["backup"], known["enrolment"]["state"]) == (None, "backed_up")
    assert known["installed"], "it is the host as before"

    (kept,) = site.server.admin.get("/admin/v1/backups/one").json()
    content = Path(kept["path"]).read_bytes()
    assert (kept["size"], kept["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert kept["recipients"] == [recipient]
    assert f"{kept['path']} on boot" in done.stdout
    assert f"{kept['size']} bytes, SHA-256 {kept['sha256']}" in done.stdout
    (fetched,) = (tmp_path / "fetched").iterdir()
    assert (fetched.name, fetched.read_bytes()) == (Path(kept["path"]).name, content)

    (line,) = set(re.findall(r'"(age -d -i IDENTITY .*)"', done.stdout))
    (tmp_path / "out").mkdir()
    line = line.replace("IDENTITY", f"{tmp_path}/keeper").replace("DIRECTORY", f"{tmp_path}/out")
    run(["bash", "-euc", f"set -o pipefail; cd {tmp_path}/fetched; {line}"])
    for name in ("lib/secret", "lib/noise"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "state" / name).read_bytes()

    log = site.server.log()
    (ordered,) = [each for each in log if each["action"] == "backup ordered"]
    assert ordered["detail"]["reason"] == "before a repair"
    for secret in (KEY, SECRET, "AGE-SECRET-KEY"):
        assert secret not in site.printed
        assert secret not in json.dumps(log)
        assert secret.encode() not in on_the_server(tmp_path)


def test_broken_transfer_leaves_no_backup_and_the_same_command_goes_on(
    site: Site, both: Ends, installed: InstalledMachine, run: Callable[..., Completed], tmp_path: Path
) -> None:
    recipient = identity(run, tmp_path / "keeper")
    words = ["--limit", "one", "-e", REASON, "-e", f"identity={tmp_path}/ada", "-e", f"recipients={recipient}"]
    cut = Sender(site, Tpm(both, "one"), tmp_path / "tmpfs", cut=True)
    machine = cut.machine()
    machine.start()
    done = site.play("backup", *words)
    with pytest.raises(FleetError, match="the line is cut"):
        machine.done()
    assert done.returncode == 2
    assert "1 of 1 hosts are not backed up: one" in done.stdout
    assert site.server.admin.get("/admin/v1/backups/one").json() == []
    assert [path.suffix for path in (tmp_path / "backups").iterdir()] == [".part"]
    whole = Sender(site, Tpm(both, "one"), tmp_path / "again").machine()
    whole.start()
    done = site.play("backup", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    whole.done()
    assert len(site.server.admin.get("/admin/v1/backups/one").json()) == 1


def test_server_cannot_choose_who_reads_the_data(
    site: Site, both: Ends, installed: InstalledMachine, run: Callable[..., Completed], tmp_path: Path
) -> None:
    """It has a machine that is to be repaired send its data, encrypted to itself. The key says no such thing."""
    evil = identity(run, tmp_path / "evil")
    order = {"reason": "test", "seconds": 3600, "recipients": [evil]}
    assert site.server.admin.put("/admin/v1/hosts/one/backup", json=order).is_success
    sender = Sender(site, Tpm(both, "one"), tmp_path / "tmpfs")
    machine = sender.machine()
    machine.start()
    done = site.play(
        "repair", "--limit", "one", "-e", REASON, "-e", f"identity={tmp_path}/ada", "-e", "provision_patience=15"
    )
    with pytest.raises(FleetError, match="nobody who can read the recovery key said whom the data are for"):
        machine.done()
    assert done.returncode == 2
    assert SECRET.encode() not in on_the_server(tmp_path)
    assert not (tmp_path / "backups").exists()


def test_what_is_missing_is_said_before_anything_is_ordered(
    site: Site, installed: InstalledMachine, run: Callable[..., Completed], tmp_path: Path
) -> None:
    before = len(site.server.log())
    ada, recipient = f"identity={tmp_path}/ada", identity(run, tmp_path / "keeper")
    mistyped = recipient[:-1] + ("q" if recipient[-1] == "x" else "x")
    (tmp_path / "wrong").write_text(f"# a comment\n\n{recipient}\n{mistyped}\n")
    (tmp_path / "empty").write_text("# nobody\n")
    for options, said in (
        (["-e", ada], "and recipients"),
        (["-e", f"recipients={recipient}"], "an identity and recipients"),
        (["-e", f"identity={tmp_path}/nobody", "-e", f"recipients={recipient}"], "the officer's identity is not here"),
        (["-e", ada, "-e", f"recipients={mistyped}"], "age cannot encrypt to"),
        (["-e", ada, "-e", f"recipients={tmp_path}/wrong"], f"{tmp_path}/wrong:4: age cannot encrypt to"),
        (["-e", ada, "-e", f"recipients={tmp_path}/keeper"], "holds an identity, which is secret"),
        (["-e", ada, "-e", f"recipients={tmp_path}/empty"], "0 recipients, and not 1 to 16"),
        (["-e", ada, "-e", f"recipients={tmp_path}/none"], "neither a recipient of age nor a file of them"),
    ):
        done = site.play("backup", "--limit", "one", "-e", REASON, *options)
        assert done.returncode != 0
        assert said in done.stdout + done.stderr, done.stdout + done.stderr
    assert len(site.server.log()) == before
    assert "AGE-SECRET-KEY" not in site.printed
