# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind
from ansible_collections.vauban.fleet.plugins.module_utils._vm.accel import kvm, tcg
from ansible_collections.vauban.fleet.plugins.module_utils._vm.arguments import (
    Invocation,
    invocation,
    mac,
    remove_strings,
    write_strings,
)
from ansible_collections.vauban.fleet.plugins.module_utils._vm.spec import (
    Disk,
    KernelBoot,
    MachineSpec,
    SegmentNic,
    UefiBoot,
    UserNic,
)

KERNEL = KernelBoot(Path("/boot/kernel"), Path("/boot/initrd"))


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    directory = tmp_path / "runtime"
    directory.mkdir()
    return directory


def build(runtime: Path, **values: Any) -> Invocation:
    spec = MachineSpec(**{"name": "gate", "directory": runtime.parent, "boot": KERNEL, **values})
    write_strings(spec, runtime)
    return invocation(spec, tcg("for the test"), runtime)


def options(qemu: Invocation, name: str) -> list[str]:
    return [value for key, value in zip(qemu.argv, qemu.argv[1:], strict=False) if key == name]


def test_secure_boot_machine_keeps_variables_in_smm(runtime: Path) -> None:
    qemu = build(runtime, boot=UefiBoot(Path("/vm/vars.fd")))
    assert options(qemu, "-machine") == ["q35,smm=on"]
    assert options(qemu, "-global") == ["driver=cfi.pflash01,property=secure,value=on", "ICH9-LPC.disable_s3=1"]
    assert options(qemu, "-drive")[0].endswith("readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.secboot.fd")
    assert Bind(Path("/vm/vars.fd"), "/run/variables", writable=True) in qemu.binds


def test_machine_without_secure_boot_has_no_smm(runtime: Path) -> None:
    qemu = build(runtime, boot=UefiBoot(Path("/vm/vars.fd"), secure_boot=False))
    assert options(qemu, "-machine") == ["q35,smm=off"]
    assert not any("secboot" in word or "secure" in word for word in qemu.argv)


def test_kernel_is_booted_without_firmware(runtime: Path) -> None:
    qemu = build(runtime, kernel_arguments="systemd.log_level=debug")
    assert options(qemu, "-append") == ["console=ttyS0 panic=-1 systemd.log_level=debug"]
    assert Bind(Path("/boot/kernel"), "/run/kernel") in qemu.binds
    assert not any("pflash" in word for word in qemu.argv)
    assert not options(qemu, "-smbios")


def test_credentials_show_in_no_argument_and_in_private_files_only(runtime: Path) -> None:
    qemu = build(
        runtime, boot=UefiBoot(Path("/vars")), credentials={"site.key": b"secret"}, kernel_arguments="quiet loglevel=3"
    )
    assert options(qemu, "-smbios") == [
        "type=11,path=/run/runtime/smbios-000",
        "type=11,path=/run/runtime/smbios-001",
    ]
    assert not any("secret" in word or "c2VjcmV0" in word for word in qemu.argv)
    assert (runtime / "smbios-000").read_text() == "io.systemd.credential.binary:site.key=c2VjcmV0"
    assert (runtime / "smbios-001").read_text() == "io.systemd.stub.kernel-cmdline-extra=quiet loglevel=3"
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in runtime.iterdir())
    remove_strings(runtime)
    assert not list(runtime.iterdir())


def test_disks_are_shown_as_named(runtime: Path) -> None:
    disks = (
        Disk(Path("/images/a,b.raw"), readonly=True, serial="core", bootindex=0),
        Disk(Path("/images/clone"), "qcow2", base=Path("/images/base.raw")),
    )
    qemu = build(runtime, disks=disks, unsafe_cache=False)
    drives, devices = options(qemu, "-drive"), options(qemu, "-device")
    assert drives[0] == "if=none,id=disk0,file=/run/disk/0,format=raw,discard=unmap,cache=writeback,readonly=on"
    assert drives[1].endswith(",backing.driver=raw,backing.file.driver=file,backing.file.filename=/run/base/1")
    assert "virtio-blk-pci,drive=disk0,serial=core,bootindex=0" in devices
    assert Bind(Path("/images/a,b.raw"), "/run/disk/0") in qemu.binds
    assert Bind(Path("/images/clone"), "/run/disk/1", writable=True) in qemu.binds
    assert Bind(Path("/images/base.raw"), "/run/base/1") in qemu.binds


def test_stick_is_no_virtio_disk(runtime: Path) -> None:
    devices = options(build(runtime, disks=(Disk(Path("/image"), serial="s", bootindex=0, usb=True),)), "-device")
    assert [each for each in devices if "virtio-blk" in each] == []
    assert devices.index("qemu-xhci") < devices.index("usb-storage,removable=on,drive=disk0,serial=s,bootindex=0")
    assert "qemu-xhci" not in options(build(runtime, disks=(Disk(Path("/image")),)), "-device")


def test_cache_is_unsafe_for_throw_away_machines(runtime: Path) -> None:
    assert "cache=unsafe" in options(build(runtime, disks=(Disk(Path("/image")),)), "-drive")[0]


@pytest.mark.parametrize(
    ("nics", "network", "backend"),
    [
        ((), False, None),
        ((UserNic(),), False, "user,id=net0,restrict=on"),
        ((UserNic(restrict=False),), True, "user,id=net0,restrict=off"),
        (
            (UserNic({2222: 22, 8080: 80}, restrict=False),),
            True,
            "user,id=net0,restrict=off,hostfwd=tcp:127.0.0.1:2222-:22,hostfwd=tcp:127.0.0.1:8080-:80",
        ),
        ((SegmentNic("239.77.0.1", 7701),), True, "socket,id=net0,mcast=239.77.0.1:7701,localaddr=127.0.0.1"),
    ],
)
def test_host_network_only_for_who_needs_it(runtime: Path, nics: Any, network: bool, backend: str | None) -> None:
    qemu = build(runtime, nics=nics)
    assert qemu.network is network
    assert options(qemu, "-netdev") == ([backend] if backend else [])


def test_addresses_differ_between_machines_and_cards_but_not_between_boots() -> None:
    addresses = {mac(name, number) for name in ("a", "b") for number in (0, 1)}
    assert len(addresses) == 4
    assert all(address.startswith("52:54:00:") for address in addresses)
    assert mac("a", 0) == mac("a", 0)


def test_ports_write_to_their_host_files(runtime: Path) -> None:
    qemu = build(runtime, ports={"report": Path("/out/report")})
    assert "virtserialport,chardev=port0,name=report" in options(qemu, "-device")
    assert Bind(Path("/out/report"), "/run/port/0", writable=True) in qemu.binds


def test_terminal_takes_console_and_monitor_and_the_log_stays(runtime: Path) -> None:
    qemu = build(runtime, interactive=True)
    assert "stdio,id=serial,mux=on,signal=off,logfile=/run/vm/serial.log,logappend=on" in options(qemu, "-chardev")
    assert "chardev=serial,mode=readline" in options(qemu, "-mon")


def test_tpm_and_saved_state(runtime: Path) -> None:
    qemu = build(runtime, tpm=True, restore=Path("/out/state"))
    assert "tpm-crb,tpmdev=tpm0" in options(qemu, "-device")
    assert options(qemu, "-incoming") == ["file:/run/restore"]


def test_kvm_is_shown_to_the_sandbox_only_when_used(runtime: Path) -> None:
    spec = MachineSpec("gate", runtime.parent, KERNEL)
    assert Bind(Path("/dev/kvm"), "/dev/kvm", device=True) in invocation(spec, kvm(""), runtime).binds
    assert not any(bind.device for bind in invocation(spec, tcg(""), runtime).binds)


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"name": "a,b"}, "name"),
        ({"directory": Path("/nowhere")}, "directory"),
        ({"memory": 16}, "memory"),
        ({"cpus": 0}, "cpus"),
        ({"kernel_arguments": "a\nb"}, "kernel_arguments"),
        ({"credentials": {"a:b": b""}}, "name"),
        ({"ports": {"a/b": Path("/x")}}, "name"),
        ({"disks": (Disk(Path("/x")), Disk(Path("/x"), "vmdk"))}, "disks[1]"),
        ({"disks": (Disk(Path("/x"), serial="x" * 21),)}, "disks[0]"),
        ({"disks": (Disk(Path("/x"), base=Path("/y")),)}, "disks[0]"),
        ({"nics": (UserNic({0: 22}),)}, "nics[0]"),
        ({"nics": (UserNic({22: 70000}),)}, "nics[0]"),
        ({"nics": (UserNic(mac="52:54"),)}, "nics[0]"),
        ({"nics": (SegmentNic("10.0.0.1", 7701),)}, "nics[0]"),
        ({"nics": (SegmentNic("group", 7701),)}, "nics[0]"),
    ],
)
def test_impossible_machine_is_refused_with_the_key(tmp_path: Path, values: dict[str, Any], where: str) -> None:
    with pytest.raises(FleetError) as caught:
        MachineSpec(**{"name": "gate", "directory": tmp_path, "boot": KERNEL, **values})
    assert caught.value.where is not None
    assert caught.value.where.endswith(f": {where}")


def test_credentials_are_not_in_the_representation(tmp_path: Path) -> None:
    assert "secret" not in repr(MachineSpec("gate", tmp_path, KERNEL, credentials={"site.key": b"secret"}))
