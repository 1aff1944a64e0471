# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The running system, asked through the root shell of an instrumented image."""

from __future__ import annotations

import base64
import json
import re
import time
from pathlib import Path
from typing import Any

import pefile
import pytest
from machines import read_manifest
from shell import Shell

from ansible_collections.vauban.fleet.plugins.module_utils._tpm import expectation

ZERO = "0" * 64
CAP_NET_ADMIN = 1 << 12  # capabilities(7)
# NET_BROADCAST, SYS_RAWIO, SYS_PACCT, LEASE, MAC_OVERRIDE, MAC_ADMIN, WAKE_ALARM, BLOCK_SUSPEND, PERFMON,
# CHECKPOINT_RESTORE
UNNEEDED = sum(1 << number for number in (11, 17, 20, 28, 32, 33, 35, 36, 38, 40))
SIGNATURE = "/run/systemd/tpm2-pcr-signature.json"  # where systemd-cryptsetup(8) looks for it
SHUT_WITHIN = 60  # seconds; systemd lets the EFI system partition go after ten idle ones
HARMLESS = (
    r"kernel: ",
    r"lvm\[\d+\]: (PV \S+ online, VG fleet is complete|VG fleet finished)\.?$",  # good news at a high level
    # The place is there, and cannot be made anew.
    r"systemd\[1\]: sysroot-etc-machine\\x2did\.mount: Failed to create mount point .* Read-only file system$",
    # Attribute FS_NOCOW_FL, which ext4 does not have, when a key that seals the journal is made.
    r"journalctl\[\d+\]: Unable to set file attribute 0x800000 on n/a, ignoring: Operation not supported$",
)
# Kernel interfaces, where there is nothing to execute and whose nodes are devices.
KERNEL_FILE_SYSTEMS = {"autofs", "cgroup2", "devpts", "devtmpfs", "proc", "sysfs"}


@pytest.fixture(scope="module")
def instrumented_manifest(instrumented_release: Path) -> dict[str, Any]:
    return read_manifest(instrumented_release)


@pytest.fixture(scope="module")
def mounts(shell: Shell) -> dict[str, dict[str, Any]]:
    """Mounted file systems by place, with their options as a set."""
    listed = json.loads(shell("findmnt --json --list --output TARGET,SOURCE,FSTYPE,OPTIONS"))["filesystems"]
    return {each["target"]: {**each, "options": set(each["options"].split(","))} for each in listed}


@pytest.fixture(scope="module")
def pcr_signature(instrumented_release: Path, instrumented_manifest: dict[str, Any]) -> bytes:
    """The signed PCR policies that the UKI carries (section .pcrsig of the UKI specification)."""
    with pefile.PE(str(instrumented_release / instrumented_manifest["uki"]["file"]), fast_load=True) as binary:
        section = next(each for each in binary.sections if each.Name.rstrip(b"\0") == b".pcrsig")
        return bytes(section.get_data()[: section.Misc_VirtualSize])


def _register(shell: Shell, number: int) -> str:
    return shell(f"cat /sys/class/tpm/tpm0/pcr-sha256/{number}").strip().lower()


def test_system_runs_and_no_unit_failed(shell: Shell) -> None:
    assert shell("systemctl list-units --failed --no-legend --plain --no-pager") == ""
    assert shell("systemctl is-system-running") == "running"


def test_no_program_warns(shell: Shell) -> None:
    journal = "journalctl --boot --priority=warning --no-pager --output=short-monotonic --no-hostname"
    said = (re.sub(r"^\[ *[0-9.]+\] ", "", line) for line in shell(journal).splitlines())
    assert [line for line in said if not re.match("|".join(HARMLESS), line)] == []


def test_firmware_enforces_secure_boot(shell: Shell) -> None:
    variable = "/sys/firmware/efi/efivars/{}-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    values = [shell(f"od -An -tu1 -j4 {variable.format(name)}").split() for name in ("SecureBoot", "SetupMode")]
    assert values == [["1"], ["0"]]


def test_command_line_is_that_of_the_manifest(shell: Shell, instrumented_manifest: dict[str, Any]) -> None:
    assert shell("cat /proc/cmdline") == instrumented_manifest["uki"]["command_line"]


def test_boot_chain_is_measured_as_the_manifest_expects(shell: Shell, instrumented_manifest: dict[str, Any]) -> None:
    expected = expectation.of_product(instrumented_manifest)
    demanded = {number: value for number, value in expected.items() if value is not None}
    assert set(demanded) == {4, 11, 12, 13}
    assert {number: _register(shell, number) for number in demanded} == demanded


def test_use_of_the_volume_key_is_measured(shell: Shell) -> None:
    assert _register(shell, 15) != ZERO


def test_tpm_gives_the_key_to_the_initrd_only(shell: Shell, pcr_signature: bytes) -> None:
    shell(f"echo {base64.b64encode(pcr_signature).decode()} | base64 --decode > {SIGNATURE}")
    options = "tpm2-device=auto,headless=true"
    answer = shell.ask(f"SYSTEMD_LOG_TARGET=console systemd-cryptsetup attach again /dev/fleet/state none {options}")
    assert answer.status != 0
    assert "Failed to load PCR signature" not in answer.text
    assert "Failed to unseal secret using TPM2" in answer.text


def test_kernel_is_locked_down(shell: Shell) -> None:
    assert "[integrity]" in shell("cat /sys/kernel/security/lockdown")
    assert shell("cat /sys/power/disk") == "[disabled]"  # or an image could be resumed that nobody signed


def test_nobody_gains_privileges_or_has_the_capabilities_that_nothing_needs(shell: Shell) -> None:
    """Not even root, who can read no memory, nor those whose units say nothing of it."""
    # Processes come and go.
    seen = shell("grep -E '^(VmSize|CapBnd|NoNewPrivs):' /proc/[0-9]*/status 2>/dev/null; true")
    processes: dict[str, dict[str, str]] = {}
    for line in seen.splitlines():
        process, field, value = line.split(":", 2)
        processes.setdefault(process, {})[field] = value.strip()
    # What has no memory of its own is a thread of the kernel.
    programs = {process: fields for process, fields in processes.items() if "VmSize" in fields}
    assert "/proc/1/status" in programs
    assert {process for process, fields in programs.items() if fields["NoNewPrivs"] != "1"} == set()
    assert {process for process, fields in programs.items() if int(fields["CapBnd"], 16) & UNNEEDED} == set()
    assert "Operation not permitted" in shell.ask("head -c1 /dev/mem").text


def test_no_module_can_be_loaded_any_more(shell: Shell) -> None:
    assert shell("cat /proc/sys/kernel/modules_disabled") == "1"
    answer = shell.ask("modprobe --first-time megaraid_sas")
    assert answer.status != 0
    assert "Operation not permitted" in answer.text


def test_kernel_settings_are_applied(shell: Shell) -> None:
    lines = shell("grep --no-filename '^[a-z]' /usr/lib/sysctl.d/60-*.conf /etc/sysctl.d/70-*.conf").splitlines()
    wanted = [tuple(part.strip() for part in line.split("=", 1)) for line in lines]
    assert len(wanted) > 30
    running = shell("sysctl " + " ".join(key for key, _value in wanted)).splitlines()
    assert [tuple(part.strip() for part in line.split("=", 1)) for line in running] == wanted


def test_core_is_read_only_and_verified(shell: Shell, mounts: dict[str, dict[str, Any]]) -> None:
    assert mounts["/"]["source"] == "/dev/mapper/root"
    assert "ro" in mounts["/"]["options"]
    assert shell("dmsetup table root").split()[2] == "verity"
    assert "Read-only file system" in shell.ask("touch /usr/lib/x").text


@pytest.mark.parametrize("place", ["/state", "/var", "/home", "/etc/machine-id", "/tmp", "/run", "/dev/shm"])
def test_writable_place_runs_no_program(mounts: dict[str, dict[str, Any]], place: str) -> None:
    assert {"rw", "nodev", "nosuid", "noexec"} <= mounts[place]["options"]


def test_nothing_else_that_is_writable_runs_programs(mounts: dict[str, dict[str, Any]]) -> None:
    writable = [each for each in mounts.values() if "rw" in each["options"]]
    writable = [each for each in writable if each["fstype"] not in KERNEL_FILE_SYSTEMS]
    assert [each["target"] for each in writable if not {"nodev", "nosuid", "noexec"} <= each["options"]] == []


def test_configuration_of_the_host_cannot_be_written_or_run(mounts: dict[str, dict[str, Any]]) -> None:
    assert mounts["/etc"]["fstype"] == "overlay"
    assert {"ro", "nodev", "nosuid", "noexec"} <= mounts["/etc"]["options"]


def test_state_is_encrypted_and_authenticated(shell: Shell, mounts: dict[str, dict[str, Any]]) -> None:
    assert {mounts[place]["source"].split("[")[0] for place in ("/state", "/var", "/home")} == {"/dev/mapper/state"}
    table = shell("dmsetup table state")
    assert "capi:authenc(hmac(sha256),xts(aes))" in table
    assert "integrity:32:aead" in table


def test_processor_computes_sha_256(shell: Shell) -> None:
    """Both devices took the implementation that was there when they were set up."""
    if not {"sha_ni", "avx2", "avx", "ssse3"} & set(shell("grep -m1 ^flags /proc/cpuinfo").split()):
        pytest.skip("this processor has no instructions that SHA-256 could use")
    said = shell("journalctl --boot --dmesg --output=cat --grep='verity: sha256|authenc.hmac'").splitlines()
    assert len(said) >= 2
    assert not [line for line in said if "sha256-generic" in line]


def test_machine_id_comes_from_the_state_volume(shell: Shell, mounts: dict[str, dict[str, Any]]) -> None:
    assert mounts["/etc/machine-id"]["source"] == "/dev/mapper/state[/etc/machine-id]"
    assert re.fullmatch("[0-9a-f]{32}", shell("cat /etc/machine-id"))


def test_swap_is_encrypted_with_a_key_of_this_boot(shell: Shell) -> None:
    assert shell("swapon --show=NAME --noheadings --raw") == shell("readlink -f /dev/mapper/swap")
    assert "aes-xts-plain64" in shell("dmsetup table swap")
    assert re.search(r"^swap\s+/dev/\S+/swap\s+/dev/urandom\s", shell("cat /etc/crypttab"), re.MULTILINE)


def test_journal_is_kept_on_the_state_volume(shell: Shell) -> None:
    machine_id = shell("cat /etc/machine-id")
    assert f"/var/log/journal/{machine_id}/system.journal" in shell("journalctl --header")
    assert "/run/log/journal" not in shell("journalctl --header")


def test_efi_partition_is_mounted_on_demand_and_let_go(shell: Shell, instrumented_manifest: dict[str, Any]) -> None:
    assert instrumented_manifest["uki"]["file"] in shell("ls /efi/EFI/Linux").splitlines()
    assert {"nodev", "nosuid", "noexec"} <= set(shell("findmnt --noheadings --types vfat --output OPTIONS").split(","))
    deadline = time.monotonic() + SHUT_WITHIN
    while shell.ask("grep --quiet ' vfat ' /proc/self/mounts").status == 0:  # findmnt(8) would keep it
        assert time.monotonic() < deadline, "still mounted"
        time.sleep(2)


def test_only_ipsec_listens(shell: Shell) -> None:
    listed = shell("ss --no-header --listening --tcp --udp --raw --sctp --dccp --numeric --processes")
    # A DHCP client gets answers at its own address. The daemon's socket for port 500 has another port, and is not used.
    others = [line for line in listed.splitlines() if not re.search(r"(?<=[0-9.]):68 |%\w+:68 ", line)]
    assert others
    assert [line for line in others if '"charon-systemd"' not in line] == []
    assert [line for line in others if line.split()[0] != "udp"] == []
    assert any(line.split()[4].endswith(":4500") for line in others)


def test_rules_are_in_force_before_the_network(shell: Shell) -> None:
    loaded = shell("systemctl show --property=ActiveEnterTimestampMonotonic --value nftables.service")
    network = shell("systemctl show --property=ExecMainStartTimestampMonotonic --value systemd-networkd.service")
    assert 0 < int(loaded) < int(network)
    for hook in ("input", "forward", "output"):
        assert f"hook {hook} priority filter; policy drop;" in shell(f"nft list chain inet filter {hook}")


def test_ipsec_daemon_has_one_right(shell: Shell) -> None:
    status = shell("cat /proc/$(systemctl show --property=MainPID --value strongswan.service)/status")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    assert set(fields["Uid"].split()) == {"200"}
    assert {int(fields[each], 16) for each in ("CapPrm", "CapEff", "CapBnd")} == {CAP_NET_ADMIN}
    assert fields["NoNewPrivs"].strip() == "1"


def test_running_services_are_confined(shell: Shell) -> None:
    running = shell("systemctl list-units --type=service --state=running --no-legend --plain --no-pager").splitlines()
    units = {line.split()[0] for line in running} - {"serial-root-shell.service"}
    assert {"strongswan.service", "systemd-networkd.service", "systemd-journald.service"} <= units
    judged = json.loads(shell("systemd-analyze security --json=short --no-pager"))
    assert {
        each["unit"]: each["exposure"] for each in judged if float(each["exposure"]) >= 5.0 and each["unit"] in units
    } == {}


def test_journal_is_sealed(shell: Shell) -> None:
    shell("logger sealed; journalctl --sync")
    assert "SEALED" in shell("journalctl --header --file /var/log/journal/$(cat /etc/machine-id)/system.journal")
    key = shell("cat /var/lib/journal-seal/verification-key")
    assert shell.ask(f"journalctl --verify --verify-key={key} --quiet").status == 0
    assert shell.ask(f"journalctl --verify --verify-key={key[::-1]} --quiet").status != 0


def test_network_card_got_its_address(shell: Shell) -> None:
    assert re.search(r"inet 10\.0\.2\.\d+/24", shell("ip -4 address show scope global"))


def test_ipv6_is_off(shell: Shell) -> None:
    assert shell("ip -6 address") == ""


def test_nobody_can_log_in_on_a_console(shell: Shell) -> None:
    holders = shell("ls -l /proc/[0-9]*/fd 2>/dev/null | grep -c -E '/dev/(tty[0-9]|console)'; true")
    assert holders == "0"
    names = set(shell("ps -e -o comm=").split())
    assert not names & {"agetty", "getty", "login", "sulogin"}


def test_no_privileged_file_on_the_state_volume(shell: Shell) -> None:
    assert shell("find /state -xdev -type f -perm /6000") == ""
    assert shell("find /state -xdev -perm -0002 -not -type l -not -perm -1000") == ""
    assert shell("getcap -r /state") == ""


def test_image_says_that_it_is_instrumented(shell: Shell) -> None:
    assert 'VAUBAN_INSTRUMENTATION="serial_root_shell"' in shell("cat /etc/os-release")
