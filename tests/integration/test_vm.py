# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Virtual machines that really start: firmware only, no operating system, so each takes seconds."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
from sdk import SDK

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._vm import accel, firmware, tpm
from ansible_collections.vauban.fleet.plugins.module_utils._vm.machine import Machine
from ansible_collections.vauban.fleet.plugins.module_utils._vm.process import descendants
from ansible_collections.vauban.fleet.plugins.module_utils._vm.serial import SerialError
from ansible_collections.vauban.fleet.plugins.module_utils._vm.spec import Disk, MachineSpec, UefiBoot

OWNER = "5f9c1a3e-7d0b-4d54-9d0e-2b8f5f0c6a11"
NO_BOOT_OPTION = "BdsDxe: No bootable option"
FIRMWARE_TIMEOUT = 120.0  # seconds; an idle host needs 6

pytestmark = pytest.mark.skipif(not SDK.exists(), reason=f"no SDK at {SDK}: run 'make build' or set FLEET_SDK")


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    return Sandbox(SDK, tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="module")
def accelerator(sandbox: Sandbox) -> accel.Accelerator:
    return accel.detect(sandbox)


@pytest.fixture(scope="module")
def keys(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> firmware.SecureBootKeys:
    directory = tmp_path_factory.mktemp("keys")
    for name in ("PK", "KEK", "db"):
        words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
        words += ["-keyout", f"/run/keys/{name}.key", "-out", f"/run/keys/{name}.pem"]
        sandbox.run(words, binds=[Bind(directory, "/run/keys", writable=True)])
    return firmware.SecureBootKeys(directory / "PK.pem", directory / "KEK.pem", (directory / "db.pem",), OWNER)


@pytest.fixture
def spec(sandbox: Sandbox, keys: firmware.SecureBootKeys, tmp_path: Path) -> MachineSpec:
    firmware.create_vars(sandbox, tmp_path / "vars.fd", keys=keys)
    return MachineSpec("diskless", tmp_path, UefiBoot(tmp_path / "vars.fd"), memory=256, tpm=True)


def test_accelerator_was_chosen_by_executing_code(sandbox: Sandbox, accelerator: accel.Accelerator) -> None:
    assert accel._probe(sandbox, accelerator, smm=True) is None
    assert accelerator.reason


def test_firmware_with_own_keys_and_tpm_finds_nothing_to_boot(
    sandbox: Sandbox, accelerator: accel.Accelerator, spec: MachineSpec
) -> None:
    with Machine(spec, sandbox, accelerator=accelerator) as machine:
        machine.serial.wait_for(NO_BOOT_OPTION, timeout=FIRMWARE_TIMEOUT)
        assert machine.qmp.status() == "running"
        assert machine.qmp.execute("query-tpm")[0]["model"] == "tpm-crb"
        machine.qmp.quit()
        machine.wait_exit(30)
        assert machine.cpu_seconds() > 0
    assert not descendants(os.getpid())
    assert NO_BOOT_OPTION in (spec.directory / "serial.log").read_text("utf-8", "replace")
    assert " qemu-system-x86_64 " in (spec.directory / "qemu.log").read_text()
    assert (spec.directory / "tpm" / tpm.STATE_FILE).is_file()


def test_saved_machine_continues(sandbox: Sandbox, accelerator: accel.Accelerator, spec: MachineSpec) -> None:
    state = spec.directory / "state"
    with Machine(spec, sandbox, accelerator=accelerator) as machine:
        machine.serial.wait_for(NO_BOOT_OPTION, timeout=FIRMWARE_TIMEOUT)
        machine.save(state)
    with Machine(replace(spec, restore=state), sandbox, accelerator=accelerator) as machine:
        machine.serial.send("\r")  # "Press any key to enter the Boot Manager Menu."
        machine.serial.wait_for("Standard PC", timeout=FIRMWARE_TIMEOUT)
        assert NO_BOOT_OPTION not in machine.serial.text


@pytest.mark.parametrize(
    ("enforced", "enrolled", "mode"), [(True, True, b"\1"), (False, True, b"\0"), (True, False, None)]
)
def test_variable_store_says_whether_secure_boot_is_on(
    sandbox: Sandbox,
    keys: firmware.SecureBootKeys,
    tmp_path: Path,
    enforced: bool,
    enrolled: bool,
    mode: bytes | None,
) -> None:
    edk2 = pytest.importorskip("virt.firmware.varstore.edk2")
    store = tmp_path / "vars.fd"
    firmware.create_vars(sandbox, store, keys=keys if enrolled else None, secure_boot=enforced)
    variables = edk2.Edk2VarStore(str(store)).get_varlist()
    assert {"PK", "KEK", "db"} & set(variables) == ({"PK", "KEK", "db"} if enrolled else set())
    assert (variables["SecureBootEnable"].data if enrolled else None) == mode


def test_missing_certificate_leaves_no_store(sandbox: Sandbox, tmp_path: Path) -> None:
    missing = tmp_path / "no.pem"
    with pytest.raises(FleetError) as caught:
        firmware.create_vars(
            sandbox, tmp_path / "vars.fd", keys=firmware.SecureBootKeys(missing, missing, (missing,), OWNER)
        )
    assert caught.value.where == str(missing)
    assert not list(tmp_path.iterdir())


def test_endorsement_certificate_comes_from_the_given_ca(sandbox: Sandbox, tmp_path: Path) -> None:
    for name in ("one", "two"):
        tpm.manufacture(sandbox, tmp_path / name, ca=tmp_path / "ca")
        assert (tmp_path / name / tpm.STATE_FILE).is_file()
    assert (tmp_path / "ca" / "swtpm-localca-rootca-cert.pem").is_file()
    before = (tmp_path / "one" / tpm.STATE_FILE).read_bytes()
    tpm.manufacture(sandbox, tmp_path / "one")
    assert (tmp_path / "one" / tpm.STATE_FILE).read_bytes() == before


def test_qemu_that_refuses_to_start_is_quoted(
    sandbox: Sandbox, accelerator: accel.Accelerator, spec: MachineSpec, tmp_path: Path
) -> None:
    (tmp_path / "disk").write_bytes(b"no qcow2")
    broken = replace(spec, disks=(Disk(tmp_path / "disk", "qcow2"),))
    with (
        pytest.raises(FleetError, match="Image is not in qcow2 format"),
        Machine(broken, sandbox, accelerator=accelerator),
    ):
        pass
    assert not descendants(os.getpid())


def test_broken_tpm_is_quoted(sandbox: Sandbox, accelerator: accel.Accelerator, spec: MachineSpec) -> None:
    (spec.directory / "tpm").mkdir()
    (spec.directory / "tpm" / tpm.STATE_FILE).write_bytes(b"broken")
    with pytest.raises(FleetError, match="TPM"), Machine(spec, sandbox, accelerator=accelerator):
        pass
    assert not descendants(os.getpid())


def test_nothing_survives_a_killed_python(sandbox: Sandbox, spec: MachineSpec) -> None:
    script = f"""
        import sys, time
        from pathlib import Path
        sys.path[:0] = {sys.path!r}
        from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox
        from ansible_collections.vauban.fleet.plugins.module_utils._vm.accel import tcg
        from ansible_collections.vauban.fleet.plugins.module_utils._vm.machine import Machine
        from ansible_collections.vauban.fleet.plugins.module_utils._vm.spec import MachineSpec, UefiBoot

        directory = Path({str(spec.directory)!r})
        boot = UefiBoot(directory / "vars.fd")
        spec = MachineSpec("diskless", directory, boot, memory=256, tpm=True, credentials={{"a": b"secret"}})
        with Machine(spec, Sandbox(Path({str(sandbox.sdk)!r}), Path({str(sandbox.scratch)!r})), accelerator=tcg("")):
            print("started", flush=True)
            time.sleep(600)
    """
    python = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE)
    assert python.stdout is not None
    assert python.stdout.readline() == b"started\n"
    family = descendants(python.pid)
    assert {"qemu-system-x86", "swtpm"} <= {each.name for each in family}
    python.send_signal(signal.SIGKILL)
    python.communicate()
    deadline = time.monotonic() + 10
    while any(_alive(each.pid) for each in family):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    runtime = re.search(r"mkdir -p (\S+);", (spec.directory / "qemu.log").read_text())
    assert runtime is not None
    assert not list(Path(runtime[1]).glob("smbios-*"))
    shutil.rmtree(runtime[1])


def test_silent_guest_is_reported_with_the_log(
    sandbox: Sandbox, accelerator: accel.Accelerator, spec: MachineSpec
) -> None:
    with Machine(spec, sandbox, accelerator=accelerator) as machine:
        machine.qmp.stop()
        assert machine.qmp.status() == "paused"
        with pytest.raises(SerialError, match="passed before 'login'"):
            machine.serial.wait_for("login", timeout=0.5)
        with pytest.raises(FleetError, match="did not end within"):
            machine.power_off(0.5)
        machine.kill()
        with pytest.raises(SerialError, match="the machine ended"):
            machine.serial.wait_for("login", timeout=60)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
