# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An installed machine proves itself with the program of role attestation: to the service, by its TPM."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import ssl
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import hosts
import pytest
from booted import Booted, booted
from certificates import P256, Authority, ec_key
from endorsement import Ends
from enrolment import Machine
from enrolment_apps import Server, served
from lab import within
from playing import play_in_tree
from sdk import SDK, unpacked
from tpm_machines import INSTALLED, INSTALLER, PREDICTED, Tpm, judging_server, machines

from ansible_collections.vauban.fleet.plugins.module_utils._command import Completed
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install import first_boot
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox

ROLE = Path(__file__).resolve().parents[2] / "roles/attestation"
PROGRAM = ROLE / "files/root/usr/lib/vauban/attest"
UNIT = "attestation.service"
TCTI = "swtpm:path=/run/swtpm"
NAME = "provision.example.org"
REFUSED = 100
# Who starts a program sees its arguments; so does everybody else (proc(5)).
WATCHED = ("base64", "cat", "curl", "jq", "od", "tpm2_createprimary", "tpm2_quote", "tr")
# Arguments: what to measure, as register and word.
BOOT = """
export TPM2TOOLS_TCTI=swtpm:path=/tmp/tpm
swtpm socket --tpm2 --tpmstate dir=/run/tpm --server type=unixio,path=/tmp/tpm --ctrl type=unixio,path=/tmp/tpm.ctrl \
    --flags not-need-init,startup-clear --pid file=/tmp/tpm.pid > /tmp/tpm.log 2>&1 &
until [ -e /tmp/tpm.pid ]; do sleep 0.05; done
while [ $# -gt 0 ]; do
    printf %s "$2" | tpm2_pcrevent -Q "$1"
    shift 2
done
mkdir /tmp/work /tmp/watched
for program in $WATCHED; do
    watched=/tmp/watched/$program
    printf '#!/bin/sh\\necho "%s $*" >> /run/seen/arguments\\nexec /usr/bin/%s "$@"\\n' $program $program > $watched
    chmod 755 $watched
done
PATH=/tmp/watched:$PATH
status=0
STATE_DIRECTORY=/run/state RUNTIME_DIRECTORY=/tmp/work /run/attest || status=$?
tpm2_shutdown -c
kill "$(cat /tmp/tpm.pid)"
wait || true # who starts it next needs the lock of its state
exit $status
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """State of the TPMs, and the manufacturers' authorities."""
    return tmp_path_factory.mktemp("tpm")


@pytest.fixture(scope="module")
def both(sandbox: Sandbox, directory: Path) -> Iterator[Ends]:
    if sandbox.run(["sh", "-c", "command -v curl && command -v jq"], check=False).returncode != 0:
        pytest.skip(f"the SDK at {SDK} is from before role attestation: build it anew with 'make build'")
    with machines(sandbox, directory, {"one": "ca", "thief": "ca"}) as started:
        yield started


@pytest.fixture(scope="module")
def tpms(both: Ends) -> dict[str, Tpm]:
    return {name: Tpm(both, name) for name in ("one", "thief")}


@pytest.fixture
def server(both: Ends, tpms: dict[str, Tpm], directory: Path, tmp_path: Path) -> Iterator[Server]:
    with judging_server(both, tpms["one"].sha256, directory / "ca", tmp_path / "enrolment.sqlite") as made:
        yield made


@pytest.fixture
def machine(server: Server, tpms: dict[str, Tpm]) -> Machine:
    """It has been installed, and restarts from its disk."""
    tpms["one"].boot(INSTALLER)
    return Machine(server, tpms["one"], predicted=PREDICTED).advance("written")


@pytest.fixture
def port(server: Server, tmp_path: Path) -> Iterator[int]:
    with served(server, tmp_path, NAME) as listening:
        yield listening


@pytest.fixture
def core(tmp_path: Path) -> Path:
    """One whose account is whoever runs the test."""
    (tmp_path / "core/etc").mkdir(parents=True)
    (tmp_path / "core/etc/passwd").write_text(f"attestation:x:{os.getuid()}:{os.getgid()}::/:/usr/sbin/nologin\n")
    (tmp_path / "core/etc/group").write_text(f"attestation:x:{os.getgid()}:\n")
    return tmp_path / "core"


@pytest.fixture
def prepared(machine: Machine, port: int, core: Path, tmp_path: Path) -> Path:
    """What the installer leaves for it."""
    (tmp_path / "state/var").mkdir(parents=True)
    first_boot.prepare(
        tmp_path / "state",
        core,
        url=f"https://{NAME}:{port}",
        id=machine.id,
        token=machine.token,
        authority=tmp_path / "site.pem",
        addresses=["127.0.0.1"],
    )
    return tmp_path / "state/var/lib/attestation"


@pytest.fixture
def attest(sandbox: Sandbox, both: Ends, directory: Path, prepared: Path, tmp_path: Path) -> Callable[..., Completed]:
    """Boot the machine's disk, and let it prove itself."""
    (tmp_path / "seen").mkdir()

    def call(words: Mapping[int, str] | None = None, tpm: str = "one", before: str = "") -> Completed:
        both.machine(tpm, "off")
        binds = [Bind(PROGRAM, "/run/attest"), Bind(prepared, "/run/state", writable=True)]
        binds += [Bind(directory / "tpms" / tpm, "/run/tpm", writable=True), Bind(tmp_path / "seen", "/run/seen", True)]
        measured = [word for number, text in (words or INSTALLED).items() for word in (str(number), text)]
        script = f"WATCHED={shlex.quote(' '.join(WATCHED))}\n{before}\n{BOOT}"
        try:
            argv = ["sh", "-euc", script, "sh", *measured]
            return sandbox.run(argv, binds=binds, network=True, privileged=True, check=False, timeout=60)
        finally:
            both.machine(tpm, "boot", {})

    return call


def test_machine_that_runs_what_was_installed(
    machine: Machine, prepared: Path, attest: Callable[..., Completed], tmp_path: Path
) -> None:
    """Its key is that of the installer, or the quote would be refused."""
    done = attest()
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == "the site has seen that this machine runs what was installed\n"
    assert machine.state() == "installed"
    assert not (prepared / "token").exists()
    arguments = (tmp_path / "seen/arguments").read_text()
    assert {program for program in WATCHED if f"{program} " in arguments} == set(WATCHED)
    assert machine.token not in arguments + done.stdout + done.stderr


def test_machine_that_runs_anything_else(
    server: Server, machine: Machine, prepared: Path, attest: Callable[..., Completed]
) -> None:
    done = attest({**INSTALLED, 11: "the parts of another product"})
    assert done.returncode == REFUSED, done.stdout + done.stderr
    assert machine.state() == "failed"
    assert "11" in str(server.last()["detail"])
    assert attest().returncode == REFUSED  # from now on
    assert (prepared / "token").exists()


def test_disk_in_a_machine_with_another_tpm(machine: Machine, attest: Callable[..., Completed]) -> None:
    assert attest(tpm="thief").returncode == REFUSED
    assert machine.state() == "failed"


def test_answer_that_was_lost(machine: Machine, prepared: Path, attest: Callable[..., Completed]) -> None:
    machine.tpm.boot(INSTALLED)  # type: ignore[union-attr]
    assert machine.attest().status_code == 200
    done = attest()
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (prepared / "token").exists()


def test_foreign_token(machine: Machine, prepared: Path, attest: Callable[..., Completed]) -> None:
    (prepared / "token").write_text("another\n")
    assert attest().returncode == REFUSED
    assert machine.state() == "written"


def test_server_that_is_away(machine: Machine, prepared: Path, attest: Callable[..., Completed]) -> None:
    (prepared / "url").write_text(f"https://{NAME}:1\n")
    done = attest()
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "no answer")
    assert (prepared / "token").exists()


def test_server_that_only_the_system_trusts(
    machine: Machine, prepared: Path, attest: Callable[..., Completed], tmp_path: Path
) -> None:
    """The authority of the site is among those of the system, and another one is the machine's."""
    shutil.copy(tmp_path / "site.pem", tmp_path / "seen")
    (prepared / "authority.pem").write_bytes(Authority.root("Another", ec_key(P256)).pem)
    trust = "mount -t tmpfs tmpfs /etc/ssl/certs\ncp /run/seen/site.pem /etc/ssl/certs\nopenssl rehash /etc/ssl/certs"
    done = attest(before=f"{trust}\ncp /run/seen/site.pem /etc/ssl/certs/ca-certificates.crt")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "no answer")
    assert "certificate" in done.stderr
    assert machine.state() == "written"


def test_server_of_another_name(machine: Machine, prepared: Path, attest: Callable[..., Completed]) -> None:
    for name in ("url", "resolve"):
        (prepared / name).write_text((prepared / name).read_text().replace(NAME, "other.example.org"))
    done = attest()
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "no answer")
    assert machine.state() == "written"


def test_server_with_tls_1_2(
    server: Server, machine: Machine, prepared: Path, attest: Callable[..., Completed], tmp_path: Path
) -> None:
    with served(server, tmp_path, NAME, newest=ssl.TLSVersion.TLSv1_2) as old:
        for name in ("url", "resolve"):
            (prepared / name).write_text(re.sub(r"(?<=org):\d+", f":{old}", (prepared / name).read_text()))
        shutil.copy(tmp_path / "site.pem", prepared / "authority.pem")
        done = attest()
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "no answer")
    assert "TLS connect error" in done.stderr


def test_machine_without_tpm(
    server: Server, core: Path, port: int, prepared: Path, attest: Callable[..., Completed]
) -> None:
    """It is asked for no quote, and gives none."""
    kind = {"class": "no_tpm", "admit": "approval", "ek_sha256": None, "serial": "S2", "macs": [], "certificates": []}
    assert server.put_host("two", **kind).status_code == 200
    machine = Machine(server, None, serial="S2", mac="52:54:00:00:00:02", predicted=PREDICTED)
    assert machine.apply().status_code == 201
    assert server.admin.post(f"/admin/v1/enrolments/{machine.id}/approve", json={"host": "two"}).status_code == 200
    for step in (lambda: machine.report("partition"), machine.escrow, machine.written):
        assert step().status_code in (200, 204)
    for name, value in (("id", machine.id), ("token", machine.token)):
        (prepared / name).write_text(f"{value}\n")
    done = attest()
    assert done.returncode == 0, done.stdout + done.stderr
    assert machine.state() == "installed"


def test_nobody_else_reads_what_is_prepared(prepared: Path) -> None:
    assert stat.S_IMODE(prepared.stat().st_mode) == 0o700
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in prepared.iterdir()}
    assert files == dict.fromkeys(("authority.pem", "id", "resolve", "token", "url"), 0o600)


@pytest.mark.parametrize(
    "change",
    [
        {"url": "http://provision.example.org"},
        {"url": 'https://provision.example.org"\nproxy = "evil'},
        {"id": "../x"},
        {"token": 'a"b'},
        {"token": ""},
        {"addresses": ["127.0.0.1,evil"]},
    ],
)
def test_what_would_be_more_than_a_value_is_refused(core: Path, tmp_path: Path, change: Mapping[str, str]) -> None:
    (tmp_path / "site.pem").write_text("x")
    (tmp_path / "state/var").mkdir(parents=True)
    good = {"url": f"https://{NAME}", "id": "ab" * 16, "token": "t", "authority": tmp_path / "site.pem"}
    with pytest.raises(FleetError):
        first_boot.prepare(tmp_path / "state", core, **{**good, **change})  # type: ignore[arg-type]
    assert list((tmp_path / "state/var").iterdir()) == []


@pytest.fixture(scope="module")
def booted_machine(sandbox: Sandbox, both: Ends, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    """Debian, with the role and what confines its unit; and a TPM that is a socket."""
    hosts.require()
    tree = unpacked(sandbox.sdk)
    directory = tmp_path_factory.mktemp("booted")
    roles = {"roles": ["vauban.fleet.attestation", "vauban.fleet.confinement"]}
    done = play_in_tree(directory, sandbox.sdk, tree, roles, layer=directory / "layer")
    assert done.returncode == 0, done.stdout + done.stderr
    with booted("attestation", (directory / "layer/upper", tree), directory / "machine") as started:
        place = f"/etc/systemd/system/{UNIT}.d/90-tpm.conf"
        started.write(place, f"[Service]\nEnvironment=TPM2TOOLS_TCTI={TCTI}\nRestartSec=1\n")
        started("systemctl", "daemon-reload")
        yield started


def start_tpm(machine: Booted, state: Path) -> None:
    shutil.copytree(state, machine.root / "var/lib/swtpm")
    words = [
        "--server",
        "type=unixio,path=/run/swtpm,mode=0666",
        "--ctrl",
        "type=unixio,path=/run/swtpm.ctrl,mode=0666",
    ]
    words += ["--tpmstate", "dir=/var/lib/swtpm", "--flags", "not-need-init,startup-clear"]
    machine("systemd-run", "--unit=swtpm", "swtpm", "socket", "--tpm2", *words)
    hosts.wait_for((machine.root / "run/swtpm.ctrl").exists, "the TPM")
    for number, word in INSTALLED.items():
        machine("env", f"TPM2TOOLS_TCTI={TCTI}", "tpm2_pcrevent", "-Q", str(number), stdin=word)


def test_unit_proves_it_with_all_that_confines_it(
    server: Server, machine: Machine, both: Ends, directory: Path, booted_machine: Booted, tmp_path: Path
) -> None:
    """It is wanted when the machine starts, needs a token, and tries again while nobody answers."""
    assert UNIT in booted_machine("systemctl", "show", "--property=Wants", "--value", "multi-user.target").split()
    booted_machine("systemctl", "start", UNIT)
    assert booted_machine.state(UNIT) == "inactive"
    both.machine("one", "off")
    try:
        start_tpm(booted_machine, directory / "tpms/one")
    finally:
        both.machine("one", "boot", {})
    root, port = booted_machine.root, 8443
    given = {"id": machine.id, "token": machine.token, "authority": tmp_path / "site.pem", "addresses": ["127.0.0.1"]}
    namespace = Path(f"/proc/{booted_machine.pid}/ns/net")
    listener = within(namespace, lambda: socket.create_server(("127.0.0.1", port)))
    with served(server, tmp_path, NAME, listener=listener):
        first_boot.prepare(root, root, url=f"https://{NAME}:{port}", **given)
        # Nobody listens there.
        booted_machine("sed", "-i", f"s/{port}/1/", "/var/lib/attestation/url", "/var/lib/attestation/resolve")
        booted_machine("systemctl", "start", UNIT)
        hosts.wait_for(lambda: restarts(booted_machine) > 0, "another try")
        booted_machine("sed", "-i", f"s/:1\\b/:{port}/", "/var/lib/attestation/url", "/var/lib/attestation/resolve")
        hosts.wait_for(
            lambda: booted_machine.state(UNIT) in ("inactive", "failed") or restarts(booted_machine) > 3, "end"
        )
    messages = booted_machine("journalctl", "--no-pager", f"--unit={UNIT}")
    assert machine.state() == "installed", messages
    assert "no answer" in messages
    assert not (root / "var/lib/attestation/token").exists()
    assert machine.token not in messages


def restarts(machine: Booted) -> int:
    return int(machine("systemctl", "show", "--property=NRestarts", "--value", UNIT))
