# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module qemu_vm with guests that really boot: one boot, then its snapshot."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import guests
import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from sdk import SDK

from ansible_collections.vauban.fleet.plugins.module_utils._boot.key_directory import ensure
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import KeyRequest, ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._vm.process import holders, kill, stat
from ansible_collections.vauban.fleet.plugins.module_utils._vm.resident import FAMILY, RECORD, Resident
from ansible_collections.vauban.fleet.plugins.modules.qemu_vm import SPEC, Task

COLLECTIONS = Path(sys.modules[FleetError.__module__].__file__ or "").parents[5]

pytestmark = [
    pytest.mark.skipif(not SDK.exists(), reason=f"no SDK at {SDK}: run 'make build' or set FLEET_SDK"),
    pytest.mark.skipif(os.geteuid() != 0, reason="the files of the tree belong to root"),
]

Options = dict[str, Any]
Ssh = Callable[[str], str]


def call(options: Options, *, check_mode: bool = False, **others: Any) -> dict[str, Any]:
    """What the module does, in this process."""
    validated = ArgumentSpecValidator(SPEC).validate({**options, **others})
    assert not validated.error_messages
    return Task(validated.validated_parameters, check_mode=check_mode).run()


@pytest.fixture(scope="module")
def image(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("image")
    guests.make_image(SDK, base, directory)
    return directory


@pytest.fixture(scope="module")
def guest(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Options]:
    """Options of a machine that was booted once and has the snapshot "booted"; it is removed afterwards."""
    directory = tmp_path_factory.mktemp("vm") / "guest"
    options = {
        "name": "guest",
        "directory": str(directory),
        "sdk": str(SDK),
        "cpus": 1,
        "kernel": str(image / guests.KERNEL),
        "initrd": str(image / guests.INITRD),
        "command_line": guests.COMMAND_LINE,
        "disks": [{"src": str(image / guests.ROOT_IMAGE), "readonly": True}, {"size": "16M", "serial": "data"}],
        "tpm": True,
        "networks": [{"mac": guests.MANAGEMENT_MAC, "forwards": [{"guest": 22}]}],
        "failures": ["GUEST FAILED.*"],
    }
    try:
        made = call(options, state="saved", snapshot="booted", wait_for="marker", marker="GUEST READY")
        assert made["changed"]
        assert made["state"] == "stopped"
        yield options
    finally:
        if directory.exists():
            call(options, state="absent")


@pytest.fixture
def running(guest: Options) -> dict[str, Any]:
    """The machine, as it was when its boot was complete."""
    return call(guest, state="restored", snapshot="booted")


@pytest.fixture
def ssh(image: Path, running: dict[str, Any]) -> Ssh:
    def run(command: str) -> str:
        options = ["-i", image / guests.CLIENT_KEY, "-o", f"UserKnownHostsFile={image / guests.KNOWN_HOSTS}"]
        where = ["-p", str(running["ssh_port"]), f"{guests.USER}@{running['ssh_host']}"]
        argv = ["ssh", *options, *where, command]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def family(directory: str) -> set[str]:
    return {each.name for each in holders(Path(directory) / FAMILY)}


def test_result_leads_to_the_guest(running: dict[str, Any], ssh: Ssh) -> None:
    assert ssh("systemctl is-system-running") == "running"
    process = stat(running["pid"])
    assert process is not None
    assert (process.name, process.started) == ("qemu-system-x86", running["started"])
    assert running["accelerator"]["name"] in ("kvm", "tcg")
    assert "GUEST READY" in Path(running["serial_log"]).read_text("utf-8", "replace")


def test_second_run_finds_the_running_machine(guest: Options, running: dict[str, Any]) -> None:
    again = call(guest, state="started")
    assert not again["changed"]
    assert (again["pid"], again["ssh_port"]) == (running["pid"], running["ssh_port"])


def test_halted_machine_goes_on(guest: Options, running: dict[str, Any], ssh: Ssh) -> None:
    """As after a controller that was killed while it took a snapshot."""
    with Resident(Path(guest["directory"]))._qmp() as qmp:
        qmp.stop()
    assert not call(guest, state="started")["changed"]
    assert ssh("echo on") == "on"


def test_check_mode_says_what_would_change(guest: Options, running: dict[str, Any]) -> None:
    said = call(guest, check_mode=True, state="started", memory="256M")
    assert said["reason"] == "changed: memory"
    assert call(guest, check_mode=True, state="absent")["changed"]
    assert call(guest, state="started")["pid"] == running["pid"]


def test_restored_machine_has_forgotten_what_came_after(guest: Options, ssh: Ssh) -> None:
    disk = "/dev/disk/by-id/virtio-data"
    ssh(f"touch /run/later; echo later | dd of={disk} conv=fsync 2>/dev/null")
    assert ssh(f"head -c5 {disk}") == "later"
    assert call(guest, state="restored", snapshot="booted")["changed"]
    assert ssh("ls /run/later 2>&1 || true").endswith("No such file or directory")
    assert ssh(f"head -c5 {disk} | tr -d '\\0'") == ""
    assert ssh("cat /sys/class/tpm/tpm0/tpm_version_major") == "2"


def test_snapshot_is_kept_until_something_changes(guest: Options, running: dict[str, Any]) -> None:
    assert call(guest, state="stopped", stop_timeout=0)["changed"]
    saved = call(guest, state="saved", snapshot="booted")
    assert not saved["changed"]
    assert saved["state"] == "stopped"
    assert saved["snapshots"] == ["booted"]
    said = call(guest, check_mode=True, state="saved", snapshot="booted", cpus=2)
    assert said["reason"] == "changed since the snapshot: cpus"
    with pytest.raises(FleetError, match="a machine with other options: cpus"):
        call(guest, state="restored", snapshot="booted", cpus=2)
    with pytest.raises(FleetError, match="there is no snapshot 'other'; there are: booted"):
        call(guest, state="restored", snapshot="other")


def test_snapshot_of_a_running_machine_is_kept_or_taken_anew(guest: Options, running: dict[str, Any]) -> None:
    waits = {"wait_for": "marker", "marker": "GUEST READY", "timeout": 30}
    kept = call(guest, state="saved", snapshot="booted", **waits)
    assert not kept["changed"]
    assert kept["pid"] == running["pid"]
    anew = call(guest, state="saved", snapshot="booted", replace_snapshot=True, **waits)
    assert anew["reason"] == "'booted' was to be taken anew"
    assert anew["state"] == "stopped"
    assert call(guest, state="restored", snapshot="booted")["state"] == "started"


def test_power_button_ends_the_machine(guest: Options, running: dict[str, Any]) -> None:
    done = call({"name": "guest", "directory": guest["directory"]}, state="stopped")
    assert done["reason"] == "the machine was started"
    assert not family(guest["directory"])
    assert "Powering off" in Path(done["serial_log"]).read_text("utf-8", "replace")
    assert not call(guest, state="stopped")["changed"]


def test_killed_emulator_is_noticed(guest: Options, running: dict[str, Any]) -> None:
    emulator = stat(running["pid"])
    assert emulator is not None
    kill([emulator])
    assert call(guest, check_mode=True, state="started")["reason"] == "the machine was stopped"
    assert call(guest, state="restored", snapshot="booted")["pid"] != running["pid"]


def test_process_of_the_same_number_is_not_mistaken(guest: Options, running: dict[str, Any]) -> None:
    record = Path(guest["directory"]) / RECORD
    known = json.loads(record.read_text())
    try:
        record.write_text(json.dumps({**known, "started": known["started"] - 1}))
        assert call(guest, check_mode=True, state="started")["reason"] == "the machine was stopped"
    finally:
        record.write_text(json.dumps(known))


def test_killed_controller_leaves_nothing_that_is_not_found(guest: Options, tmp_path: Path) -> None:
    directory = tmp_path / "vm"
    script = f"""
        import sys
        sys.path[:0] = {sys.path!r}
        from test_qemu_vm import call
        call({ {**guest, "directory": str(directory)}!r})
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    controller = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], env=environment)
    deadline = time.monotonic() + 60
    while not (directory / FAMILY).exists() or "qemu-system-x86" not in family(str(directory)):
        assert time.monotonic() < deadline
        assert controller.poll() is None
        time.sleep(0.05)
    controller.send_signal(signal.SIGKILL)
    controller.wait()
    assert {"qemu-system-x86", "swtpm"} <= family(str(directory))
    (directory / RECORD).unlink(missing_ok=True)  # as if it had been killed a moment earlier
    runtime = Resident(directory).runtime
    members = holders(directory / FAMILY)
    removed = call({"name": "guest", "directory": str(directory)}, state="absent")
    assert removed["changed"]
    assert not directory.exists()
    assert not runtime.exists()
    for member in members:
        now = stat(member.pid)
        assert now is None or now.ended or now.started != member.started


def test_guest_that_panics_is_reported_with_its_console(guest: Options, tmp_path: Path) -> None:
    directory = tmp_path / "vm"
    options = {**guest, "directory": str(directory), "command_line": "console=ttyS0 panic=-1 rdinit=/nosuch"}
    with pytest.raises(FleetError, match="Kernel panic") as caught:
        call(options, log_lines=3)
    assert caught.value.message.count("\n  | ") == 3
    assert str(directory / "serial.log") in str(caught.value)
    assert not family(str(directory))
    assert call(options, state="absent")["changed"]
    assert not call(options, state="absent")["changed"]


@pytest.mark.parametrize(
    ("enforced", "marker"),
    # The shell that comes with the firmware is signed by nobody.
    [(True, "BdsDxe: No bootable option"), (False, "UEFI Interactive Shell")],
)
def test_firmware_enforces_the_keys_of_the_product(tmp_path: Path, enforced: bool, marker: str) -> None:
    edk2 = pytest.importorskip("virt.firmware.varstore.edk2")
    (tmp_path / "mounts").mkdir()
    keys = ProductKeys(tmp_path / "keys")
    ensure(keys, KeyRequest("firmware"), Sandbox(SDK, tmp_path / "mounts"), now=dt.datetime.now(dt.UTC))
    directory = tmp_path / "vm"
    options = {"name": "firmware", "directory": str(directory), "sdk": str(SDK), "memory": "256M", "cpus": 1}
    firmware = {"secure_boot": enforced, "keys": str(keys.directory)}
    try:
        failures = [] if not enforced else ["UEFI Interactive Shell"]
        call(options, firmware=firmware, wait_for="marker", marker=marker, failures=failures, timeout=120)
        variables = edk2.Edk2VarStore(str(directory / "variables.fd")).get_varlist()
        assert {"PK", "KEK", "db"} <= set(variables)
        assert variables["SecureBootEnable"].data == (b"\1" if enforced else b"\0")
    finally:
        call(options, state="absent")


def test_directory_with_other_files_is_left_alone(guest: Options, tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    for state in ("started", "absent"):
        with pytest.raises(FleetError, match="holds other files"):
            call(guest, directory=str(tmp_path), state=state)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_taken_port_is_an_error_that_names_it(guest: Options, running: dict[str, Any], tmp_path: Path) -> None:
    networks = [{"forwards": [{"guest": 22, "host": running["ssh_port"]}]}]
    with pytest.raises(FleetError, match=f"port {running['ssh_port']} of 127.0.0.1 is in use"):
        call(guest, directory=str(tmp_path / "vm"), networks=networks)


def test_task_shows_its_diff_and_fails_with_data(guest: Options, running: dict[str, Any], tmp_path: Path) -> None:
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed: run 'make host'")
    tasks = [
        {"vauban.fleet.qemu_vm": {**guest, "memory": "256M"}, "check_mode": True, "diff": True},
        {"vauban.fleet.qemu_vm": {**guest, "memory": "512"}, "register": "failed", "ignore_errors": True},
        {"ansible.builtin.assert": {"that": ["failed.failure.where == 'memory'", "failed is failed"]}},
    ]
    (tmp_path / "play.json").write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]))
    options = ["-i", "localhost,", "-c", "local", "-e", f"ansible_python_interpreter={sys.executable}"]
    done = subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", *options, "play.json"],
        cwd=tmp_path,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS), "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '+    "reason": "changed: memory"' in done.stdout
