# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the installer takes from the server, and what only from who signed its release."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install import (
    backing_up,
    boot_files,
    certificates,
    hardware,
    keeping,
    provisioning,
    repairing,
)
from ansible_collections.vauban.fleet.plugins.module_utils._install.disks import Disk
from ansible_collections.vauban.fleet.plugins.module_utils._install.provisioning import (
    BACKUP_STEPS,
    REPAIR_STEPS,
    Provisioning,
)
from ansible_collections.vauban.fleet.plugins.module_utils._install.release import Release

RELEASE = {"product": "server", "version": "1.0", "manifest_sha256": "ab" * 32}
ALONE: dict[str, Any] = {"recipients": ["age1a", "age1b", "age1c"]}


def take(told: dict[str, Any], signed: dict[str, Any]) -> Any:
    """Have an installer look at what it is told."""
    installer = Provisioning.__new__(Provisioning)
    installer._profiles, installer._say = {}, lambda _line: None
    return installer._take({"host": "one", "release": RELEASE, "escrow": told}, RELEASE, {"escrow": signed})


@pytest.mark.parametrize(("told", "signed"), [({}, {}), ({"threshold": 1}, {}), ({"threshold": 2}, {"threshold": 2})])
def test_officers_of_the_release_are_taken(told: dict[str, Any], signed: dict[str, Any]) -> None:
    assert take({**ALONE, **told}, {**ALONE, **signed})["host"] == "one"


@pytest.mark.parametrize(
    ("told", "signed", "said"),
    [
        ({**ALONE, "threshold": 1}, {**ALONE, "threshold": 2}, "signed for 2 of the escrow recipients together"),
        (ALONE, {**ALONE, "threshold": 2}, "signed for 2 of the escrow recipients together"),
        ({**ALONE, "threshold": 2}, ALONE, "signed for 1 of the escrow recipients together"),
        ({"recipients": ["age1a"]}, ALONE, "not those that the release was signed with"),
    ],
)
def test_server_cannot_make_one_officer_enough(told: dict[str, Any], signed: dict[str, Any], said: str) -> None:
    with pytest.raises(FleetError, match=said):
        take(told, signed)


class Asked:
    """The enrolment service, to a machine that is to become or to stay a host."""

    def __init__(self, hardware_profile: str | None) -> None:
        told = {"host": "one", "release": RELEASE, "escrow": ALONE, "disk": {"serial": "S1"}, "sizes": {}}
        self.told = {**told, "certificates": [], "configuration": None, "hardware_profile": hardware_profile}
        self.evidence: dict[str, Any] = {}

    def installation(self) -> dict[str, Any]:
        return self.told

    keeping = installation

    def report(self, phase: str, _percent: int, _line: str, evidence: dict[str, Any]) -> None:
        self.evidence[phase] = evidence


class Reached(Exception):
    """The disk is looked for."""


class Disks:
    """In place of an installation."""

    def __init__(self, *_arguments: Any) -> None:
        self.steps = [{"step": "seal state", "evidence": {"tokens": [], "key_slots": []}}]

    def run(self) -> Disks:
        return self


Come = Callable[..., Asked]


@pytest.fixture
def come(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Come:
    """Have the installer of a release for servers come to a machine."""

    def reached(*_what: Any) -> None:
        raise Reached

    def call(way: str, dmi: dict[str, str], given: str | None) -> Asked:
        service = Asked(given)
        monkeypatch.setattr(hardware, "read_dmi", lambda: dmi)
        monkeypatch.setattr(provisioning, "Installation", Disks)
        monkeypatch.setattr(keeping, "find", reached)
        installer = Provisioning.__new__(Provisioning)
        values: dict[str, Any] = {"_profiles": {"servers": [{"chassis_type": "23"}], "panel": []}, "_tpm": object()}
        values |= {"_enrolment": service, "_say": lambda _line: None, "_keys": tmp_path / way, "_receipt": ""}
        values |= {"_root": tmp_path, "_fetch_parts": lambda *_what: None}
        for name, value in values.items():
            setattr(installer, name, value)
        manifest = {"escrow": ALONE, "state": {}}
        try:
            if way == "keep":
                installer._keep(RELEASE, manifest)
            else:
                installer._install(tmp_path, RELEASE, manifest)
        except FleetError:
            assert (service.evidence, list(tmp_path.iterdir())) == ({}, []), "it had begun"
            raise
        return service

    return call


@pytest.mark.parametrize("way", ["install", "keep"])
@pytest.mark.parametrize(
    ("dmi", "given", "problem"),
    [
        (
            {"sys_vendor": "Example", "chassis_type": "3"},
            None,
            r"\(servers, panel\) is for this machine: Example",
        ),
        ({}, None, "is for this machine: no name"),
        ({"chassis_type": "23"}, "laptops", r"no hardware profile laptops \(it has: servers, panel\)"),
    ],
)
def test_machine_of_no_profile_ends_before_anything_is_done(
    come: Come, way: str, dmi: dict[str, str], given: str | None, problem: str
) -> None:
    with pytest.raises(FleetError, match=problem) as error:
        come(way, dmi, given)
    assert "machine.hardware_profile of one" in str(error.value.remedy)


@pytest.mark.parametrize(
    ("dmi", "given", "profile"),
    [({"chassis_type": "23"}, None, "servers"), ({"chassis_type": "3"}, "servers", "servers"), ({}, "panel", "panel")],
)
def test_machine_of_a_profile_is_installed_with_it(
    come: Come, dmi: dict[str, str], given: str | None, profile: str
) -> None:
    assert come("install", dmi, given).evidence["written"]["hardware_profile"] == profile
    with pytest.raises(Reached):
        come("keep", dmi, given)


class Service:
    """The enrolment service, to a machine that is to repair its disk."""

    def __init__(self) -> None:
        self.reports: list[tuple[str, int, str, dict[str, Any]]] = []

    def repair(self) -> dict[str, Any]:
        return {"host": "one", "disk": {"serial": "S1"}, "thorough": False}

    def unlock(self, _tpm: Any, recipient: str) -> tuple[bytes, str]:
        return b"secret", f"for {recipient}"

    def report(self, phase: str, percent: int, line: str, evidence: dict[str, Any]) -> None:
        self.reports.append((phase, percent, line, dict(evidence)))


@pytest.fixture
def repair(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[str, Service, list[str]]]:
    """Have an installer repair a disk; what it says at its end, what the service hears, and what was done in order."""
    disk = Disk(Path("/dev/sda"), 1 << 35, "S1", "", "sata", "", False, (), False)
    done: list[str] = []

    def note(name: str, result: Any) -> Callable[..., Any]:
        def call(*_arguments: Any, **_options: Any) -> Any:
            done.append(name)
            return result

        return call

    @contextmanager
    def unlocked(_volume: Path, recovery: bytes) -> Iterator[Path]:
        done.append(f"open with {recovery.decode()}")
        yield Path("/dev/mapper/state")
        done.append("close")

    def call(**changes: Any) -> tuple[str, Service, list[str]]:
        found = {
            "header": {"first": True, "second": True},
            "file_system": {"corrected": False, "count": ""},
            "core": {"written": False},
            **changes,
        }
        monkeypatch.setattr(repairing, "find", note("find", (disk, Path("/core"), Path("/state"))))
        for name, result in found.items():
            monkeypatch.setattr(repairing, name, note(name, result))
        monkeypatch.setattr(repairing, "unlocked", unlocked)
        monkeypatch.setattr(repairing, "boot_partition", note("boot partition", (Path("/dev/sda1"), False)))
        monkeypatch.setattr(keeping, "recovery_key", lambda unlock, _directory: unlock("age1x")[1].encode())
        monkeypatch.setattr(boot_files, "install", note("boot files", {"files": {"uki": "ab"}}))
        monkeypatch.setattr(boot_files, "enter", note("boot entry", {"boot_order": "0001"}))
        monkeypatch.setattr(provisioning, "open_release", lambda *_where: Release(tmp_path, {"product": "server"}))
        installer = Provisioning.__new__(Provisioning)
        service = Service()
        values = {"_enrolment": service, "_tpm": object(), "_directory": tmp_path, "_root": tmp_path}
        values |= {"_say": lambda _line: None, "_fetch_parts": note("download", None)}
        for name, value in values.items():
            setattr(installer, name, value)
        return installer._repair(tmp_path, RELEASE, {}), service, done

    return call


def test_repair_comes_to_the_data_first_and_tells_what_it_found(
    repair: Callable[..., tuple[str, Service, list[str]]],
) -> None:
    said, service, done = repair()
    assert said == "REPAIRED one"
    assert done == [
        "find",
        "header",
        "open with for age1x",
        "file_system",
        "close",
        "download",
        "core",
        "boot partition",
        "boot files",
        "boot entry",
    ]
    assert [(phase.replace("_", " "), percent) for phase, percent, *__ in service.reports] == list(REPAIR_STEPS.items())
    phase, _percent, line, evidence = service.reports[-1]
    assert (phase, line) == ("repaired", "whole; boot files are placed anew")
    assert evidence == {
        "manifest_sha256": RELEASE["manifest_sha256"],
        "disk": str(Disk(Path("/dev/sda"), 1 << 35, "S1", "", "sata", "", False, (), False)),
        "header": {"first": True, "second": True},
        "file_system": {"corrected": False, "count": ""},
        "core": {"written": False},
        "boot": {"files": {"uki": "ab"}, "new_file_system": False, "boot_order": "0001"},
    }


def test_what_was_repaired_stands_in_the_line(repair: Callable[..., tuple[str, Service, list[str]]]) -> None:
    _said, service, _done = repair(
        header={"first": False, "second": True}, file_system={"corrected": True, "count": ""}, core={"written": True}
    )
    assert service.reports[-1][2] == (
        "repaired: first copy of the header, file system, core; boot files are placed anew"
    )


def test_certificates_come_before_the_recovery_key_goes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One of them is shown from then on: the first, since the service asks for it as soon as it is fetched."""
    done: list[str] = []

    class Site:
        def certificate(self, name: str) -> bytes:
            done.append(f"fetch {name}")
            return name.encode()

        def escrow(self, _sealing: Any, _recipients: Any) -> dict[str, str]:
            done.append("escrow")
            return {"sha256": "ab"}

        def identify(self, certificate: Path, key: Path) -> None:
            done.append(f"show {certificate.name} with {key.name}")

    monkeypatch.setattr(certificates, "shown", lambda where, name, _chain: (where / f"{name}.pem", where / "key"))
    installer, site = Provisioning.__new__(Provisioning), Site()
    wanted = {"certificates": [{"name": "hosts"}, {"name": "https"}], "escrow": {"recipients": ["age1a"]}}
    values = {"_wire": site, "_enrolment": site, "_wanted": wanted, "_keys": tmp_path, "_chains": {}}
    for name, value in values.items():
        setattr(installer, name, value)
    assert installer.escrow({}) == {"receipt": {"sha256": "ab"}}
    assert done == ["fetch hosts", "show hosts.pem with key", "fetch https", "escrow"]
    assert installer._chains == {"hosts": b"hosts", "https": b"https"}


class BackupService(Service):
    """The enrolment service, to a machine that is to send its data."""

    def __init__(self, answer: str) -> None:
        super().__init__()
        self.answer, self.taken = answer, b""

    def backup(self) -> dict[str, Any]:
        return {"host": "one", "disk": {"serial": "S1"}, "recipients": [EVIL], "piece": 4, "largest": 100}

    def unlock(self, _tpm: Any, _recipient: str) -> tuple[bytes, str]:
        return b"secret", self.answer

    def send(self, offset: int, piece: bytes) -> None:
        assert offset == len(self.taken)
        self.taken += piece

    def sent(self, size: int, sha256: str) -> dict[str, Any]:
        assert (size, sha256) == (len(self.taken), hashlib.sha256(self.taken).hexdigest())
        return {"id": "e1", "size": size, "sha256": sha256, "time": "2026-11-22T12:00:00Z"}


GOOD, EVIL = "age1" + "q" * 58, "age1" + "z" * 58


@pytest.fixture
def back_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[str, BackupService, list[str]]]:
    """Have an installer back up a disk; what it says at its end, what the service hears, and what was done in order."""
    disk = Disk(Path("/dev/sda"), 1 << 35, "S1", "", "sata", "", False, (), False)
    done: list[str] = []

    @contextmanager
    def unlocked(_volume: Path, recovery: bytes) -> Iterator[Path]:
        done.append(f"open with {recovery.decode()}")
        yield Path("/dev/mapper/state")
        done.append("close")

    @contextmanager
    def mounted(_device: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
        yield tmp_path, {"journal": True, "used": 100}
        done.append("unmount")

    def send(_root: Path, recipients: list[str], send: Any, *, piece: int, largest: int) -> tuple[int, str]:
        done.append(f"encrypt to {' '.join(recipients)}")
        content = b"0123456789"
        for offset in range(0, len(content), piece):
            send(offset, content[offset : offset + piece])
        return len(content), hashlib.sha256(content).hexdigest()

    def call(answer: str, news: float = 60.0) -> tuple[str, BackupService, list[str]]:
        monkeypatch.setattr(repairing, "find", lambda *_what: (disk, Path("/core"), Path("/state")))
        monkeypatch.setattr(repairing, "unlocked", unlocked)
        monkeypatch.setattr(backing_up, "mounted", mounted)
        monkeypatch.setattr(backing_up, "send", send)
        monkeypatch.setattr(keeping, "recovery_key", lambda unlock, _directory: unlock("age1x")[1].encode())
        monkeypatch.setattr(provisioning, "_NEWS", news)
        installer = Provisioning.__new__(Provisioning)
        service = BackupService(answer)
        values = {"_enrolment": service, "_tpm": object(), "_directory": tmp_path, "_say": lambda _line: None}
        for name, value in values.items():
            setattr(installer, name, value)
        return installer._back_up(RELEASE, {}), service, done

    return call


def test_backup_is_encrypted_to_whom_the_holder_of_the_key_said(
    back_up: Callable[..., tuple[str, BackupService, list[str]]],
) -> None:
    said, service, done = back_up(f"key\n{GOOD}")
    assert said == "BACKED UP one"
    assert done == ["open with key", f"encrypt to {GOOD}", "unmount", "close"], "the server's word is none"
    assert [(phase.replace("_", " "), percent) for phase, percent, *__ in service.reports] == list(BACKUP_STEPS.items())
    phase, _percent, line, evidence = service.reports[-1]
    assert (phase, line) == (
        "backed_up",
        "10 bytes were sent; it had not been switched off in order, and its journal was played",
    )
    assert evidence["receipt"] == hashlib.sha256(b"0123456789").hexdigest()
    assert (evidence["recipients"], evidence["size"]) == ([GOOD], 10)


@pytest.mark.parametrize("answer", ["key", "key\nsomebody", f"key\n{GOOD}\nage1"])
def test_key_that_came_for_something_else_opens_nothing(
    back_up: Callable[..., tuple[str, BackupService, list[str]]], answer: str
) -> None:
    with pytest.raises(FleetError, match="nobody who can read the recovery key said whom the data are for"):
        back_up(answer)


def test_progress_is_told_now_and_then(back_up: Callable[..., tuple[str, BackupService, list[str]]]) -> None:
    _said, service, _done = back_up(f"key\n{GOOD}", news=0.0)
    told = [(percent, line) for phase, percent, line, _evidence in service.reports if phase == "send"]
    assert told[1:] == [(20 + share, "sent 0 MiB, of files of 0 MiB") for share in (0, 3, 6)]
