# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The enrolment service as processes: two Unix sockets, one database, and SIGKILL whenever it hurts."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from enrolment import CHAIN, INSTALLED, INSTALLER, MANIFEST, PEM, RECIPIENTS, Machine, Tpm, expectation, sign
from sdk import SDK

from ansible_collections.vauban.fleet.plugins.module_utils import _sandbox
from ansible_collections.vauban.fleet.plugins.plugin_utils import _confinement
from vauban_enrolment import audit
from vauban_enrolment.storage import Storage

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "tests/support/enrolment_server.py"


class Side:
    """A process that serves one side. Its socket outlives it, as that of a socket unit does."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name, self.directory = name, directory
        self.path = directory / f"{name}.sock"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen()
        self.process: subprocess.Popen[bytes] | None = None
        self.log = directory / f"{name}.log"
        self.start()

    def start(self) -> None:
        # sd_listen_fds(3): the number of the process is known only inside it.
        code = "import os, sys; os.environ['LISTEN_PID'] = str(os.getpid()); os.execv(sys.executable, sys.argv[1:])"
        command = [
            sys.executable,
            "-c",
            code,
            sys.executable,
            str(PROGRAM),
            self.name,
            str(self.directory / "settings"),
        ]

        def hand_over() -> None:
            os.dup2(self.listener.fileno(), 3)

        environment = {
            **os.environ,
            "LISTEN_FDS": "1",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, pass_fds=[3], preexec_fn=hand_over, stdout=log, stderr=log
            )

    def kill(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def request(self, method: str, url: str, **keywords: Any) -> httpx.Response:
        """Over the socket. Who asks while it starts waits, as he does with a socket unit."""
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(self.path)), timeout=60) as client:
            return client.request(method, f"http://enrolment{url}", **keywords)


class Pair:
    """Both sides."""

    def __init__(self, directory: Path) -> None:
        self.database = f"sqlite:///{directory}/enrolment.sqlite"
        (directory / "settings").write_text(json.dumps({"database": self.database}))
        self.machines, self.admin = Side("machines", directory), Side("admin", directory)

    def request(self, method: str, url: str, **keywords: Any) -> httpx.Response:
        return self.machines.request(method, url, **keywords)

    def put(self, path: str, **keywords: Any) -> None:
        answer = self.admin.request("PUT", f"/admin/v1/{path}", **keywords)
        assert answer.is_success, answer.text


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    started = Pair(tmp_path)
    try:
        content = {"manifest_sha256": MANIFEST, "pcrs": {"installer": INSTALLER, "installed": INSTALLED}}
        started.put("releases/server/1.0", json=content)
        started.put("hosts/one", json=expectation())
        yield started
    finally:
        for side in (started.machines, started.admin):
            if side.process and side.process.poll() is None:
                side.kill()
            side.listener.close()


def test_a_machine_goes_all_the_way_though_the_service_is_killed_after_every_step(pair: Pair) -> None:
    machine = Machine(pair)

    def certify() -> Any:
        request = machine.request()
        answer = machine.own("PUT", "/requests/hosts", content=request, headers=PEM)
        pair.machines.kill()
        pair.machines.start()
        pair.put("certificates/one/hosts", content=sign(request), headers=CHAIN)
        assert machine.fetch().status_code == 200
        return answer

    steps = [machine.apply, machine.prove, certify, lambda: machine.report("partition"), machine.escrow]
    for step in (*steps, machine.written, machine.attest):
        assert step().is_success
        pair.machines.kill()
        pair.machines.start()
    assert machine.state() == "installed"
    pair.admin.kill()
    pair.admin.start()
    found = pair.admin.request("GET", "/admin/v1/audit").json()
    assert found["intact"], found["fault"]
    states = ("challenged", "proven", "installing", "escrowed", "written", "installed")
    assert [each["action"] for each in found["records"] if each["action"] in states] == list(states)


def test_what_was_answered_is_kept_though_it_is_killed_at_any_moment(pair: Pair) -> None:
    """Machines apply while the service is killed again and again: what it answered is kept, and the log is whole."""
    answered: list[Machine] = []

    def kill_often() -> None:
        for number in range(5):
            before = len(answered)
            while len(answered) < before + 2:
                time.sleep(0.01)
            time.sleep(0.003 * number)
            pair.machines.kill()
            pair.machines.start()

    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(kill_often)
        for index in itertools.count():
            if killing.done():
                break
            machine = Machine(pair, Tpm(str(index)), str(index), f"52:54:00:01:{index >> 8:02x}:{index & 255:02x}")
            machine.address = f"10.0.{index >> 8}.{index & 255}"
            # One that it was killed over is not answered; one that it had not taken yet waits for the next process.
            with contextlib.suppress(httpx.TransportError):
                if machine.apply().status_code == 201:
                    answered.append(machine)
        killing.result()
    assert len(answered) >= 10
    assert {machine.state() for machine in answered} == {"quarantined"}
    storage = Storage(pair.database)
    with storage.read() as session:
        assert audit.verify(session) is None
    storage.close()


def test_a_real_age_file_is_taken_and_its_receipt_is_the_files(pair: Pair, tmp_path: Path) -> None:
    scratch, out = tmp_path / "scratch", tmp_path / "out"
    scratch.mkdir()
    out.mkdir()
    sandbox = _sandbox.Sandbox(SDK, scratch)

    def run(*command: str, stdin: bytes = b"") -> str:
        bind = _sandbox.Bind(out, "/run/out", writable=True)
        return sandbox.run(command, binds=[bind], stdin=stdin).stdout

    recovery = b"-".join([b"cbdefghi"] * 8)
    for number in ("1", "2"):
        run("age-keygen", "-o", f"/run/out/{number}.key")
    recipients = [run("age-keygen", "-y", f"/run/out/{number}.key").strip() for number in ("1", "2")]
    encrypt = ["age", "--encrypt", "--armor", *(word for each in recipients for word in ("--recipient", each))]
    file, empty = run(*encrypt, stdin=recovery), run(*encrypt)
    pair.put("hosts/one", json=expectation(recipients=recipients))
    machine = Machine(pair).advance("installing")
    assert machine.escrow(machine.escrow_body(recipients=recipients, recovery_key=empty)).status_code == 422
    assert machine.escrow(machine.escrow_body(recipients=RECIPIENTS, recovery_key=file)).status_code == 422
    assert machine.escrow(machine.escrow_body(recipients=recipients, recovery_key=file)).status_code == 200
    (kept,) = pair.admin.request("GET", "/admin/v1/escrows/one").json()
    document = base64.b64decode(kept["document"])
    assert hashlib.sha256(document).hexdigest() == machine.receipt["sha256"]
    stored = json.loads(document)["recovery_key"].encode()
    assert run("age", "--decrypt", "--identity", "/run/out/2.key", stdin=stored).encode() == recovery
    files = [path for path in tmp_path.iterdir() if path.is_file()]
    assert recovery not in b"".join(path.read_bytes() for path in files)


def test_the_machines_socket_knows_nothing_of_the_admins(pair: Pair) -> None:
    for path in ("/", "/metrics", "/fleet.css", "/openapi.json", "/admin/v1/machines", "/admin/v1/escrows/one"):
        assert pair.machines.request("GET", path).status_code == 404
        assert path.startswith("/admin/v1/escrows") or pair.admin.request("GET", path).status_code == 200
    assert pair.admin.request("POST", "/v1/enrolments", json={}).status_code == 404


def test_it_ends_when_it_is_told_to_and_says_no_secret(pair: Pair) -> None:
    machine = Machine(pair).advance("installed")
    assert (pair.machines.stop(), pair.admin.stop()) in {(0, 0), (-15, -15)}
    log = pair.machines.log.read_text()
    assert '"action":"installed"' in log
    assert machine.token not in log
    assert machine.credential.hex() not in log
    assert "Traceback" not in log


def test_the_database_is_for_its_owner_alone(pair: Pair, tmp_path: Path) -> None:
    """Its directory is closed by the unit; the file itself is not for the world either."""
    mode = stat.S_IMODE((tmp_path / "enrolment.sqlite").stat().st_mode)
    assert mode & 0o077 == 0, oct(mode)


@pytest.mark.parametrize("side", ["machines", "admin"])
def test_a_unit_is_as_little_exposed_as_its_profile_says(tmp_path: Path, side: str) -> None:
    """systemd judges the unit with its drop-in, and finds more without."""
    unit = f"vauban-enrolment-{side}.service"
    (dropin,) = [each for each in _confinement.image_dropins() if each.name == unit]
    text = (ROOT / "roles/enrolment/files/root/usr/lib/systemd/system" / unit).read_text()
    scratch, units = tmp_path / "scratch", tmp_path / "units"
    for directory in (scratch, units, units / "bare", units / "confined"):
        directory.mkdir()
    (units / "bare" / unit).write_text(text)
    (units / "confined" / unit).write_text("\n".join([text, "[Service]", *dropin.lines, ""]))
    sandbox = _sandbox.Sandbox(SDK, scratch)
    codes = {}
    for kind in ("bare", "confined"):
        *command, _name = _confinement.exposure_check(unit, dropin.threshold, "--no-pager")
        bind = _sandbox.Bind(units / kind, "/run/units")
        codes[kind] = sandbox.run([*command, f"/run/units/{unit}"], binds=[bind], check=False)
    assert dropin.threshold <= 1.8
    assert codes["confined"].returncode == 0, codes["confined"].stdout + codes["confined"].stderr
    assert "Overall exposure level" in codes["bare"].stdout
    assert codes["bare"].returncode != 0
