# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils._boot.key_reference import KeyReference
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox

STUB = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"
# systemd-pcrphase.service(8): what a booted system extends PCR 11 with, in order. Secrets are given to the first only.
PHASES = ("enter-initrd", "leave-initrd", "sysinit", "ready")
UNSEALING_PHASE = PHASES[0]
_MEASURED = re.compile(r"^11:sha256=([0-9a-f]{64})$", re.MULTILINE)


@dataclass(frozen=True)
class UkiRequest:
    """What a unified kernel image is made of (UAPI specification "Unified Kernel Image").

    :param pcr_keys: sign the PCR 11 policy, each with its public half as ukify(1) wants it.
    :param pcr_public: public half (PEM) of the first, which the image names as the one to seal secrets to.
    """

    linux: Path
    initrd: Path
    command_line: Sequence[str]
    os_release: str
    uname: str
    pcr_keys: Sequence[tuple[KeyReference, Path]]
    pcr_public: Path


def build(sandbox: Sandbox, request: UkiRequest, dest: Path, *, epoch: int, log: Path) -> Mapping[str, str]:
    """Write the unsigned UKI, which carries the signature of its own PCR 11 policy, with ukify(1).

    Two runs give the same bytes: RSA PKCS #1 signatures are deterministic, and nothing else depends on the time.

    :returns: the expected PCR 11 (SHA-256 bank, hexadecimal) after each boot phase.
    :raises FleetError: a command line longer than the kernel takes, an unusable key.
    """
    command_line = " ".join(request.command_line)
    if len(command_line) >= 2048:
        raise FleetError(f"the kernel takes 2047 characters, these are {len(command_line)}", where="command line")
    signers: list[str] = []
    binds: dict[str, Bind] = {}
    for number, (key, public) in enumerate(request.pcr_keys):
        key.check()
        place = f"/run/in/pcr{number}"
        signers += [*key.ukify_pcr_arguments(place), f"--phases={UNSEALING_PHASE}"]
        binds |= {bind.dest: bind for bind in (Bind(public, place), *key.binds())}
    with tempfile.TemporaryDirectory(prefix=f".{dest.name}.", dir=dest.parent) as name:
        work = Path(name)
        (work / "cmdline").write_text(command_line)
        (work / "os-release").write_text(request.os_release)
        completed = sandbox.run(
            [
                "ukify",
                "build",
                f"--stub={STUB}",
                "--linux=/run/in/linux",
                "--initrd=/run/in/initrd",
                "--cmdline=@/run/out/cmdline",
                "--os-release=@/run/out/os-release",
                f"--uname={request.uname}",
                "--pcr-banks=sha256",
                *signers,
                "--pcrpkey=/run/in/pcrpkey",
                "--measure",
                "--output=/run/out/uki",
            ],
            binds=[
                Bind(request.linux, "/run/in/linux"),
                Bind(request.initrd, "/run/in/initrd"),
                Bind(work, "/run/out", writable=True),
                Bind(request.pcr_public, "/run/in/pcrpkey"),
                *binds.values(),
            ],
            env={"SOURCE_DATE_EPOCH": str(epoch), **request.pcr_keys[0][0].environment()},
            log=log,
        )
        (work / "uki").chmod(0o644)
        (work / "uki").rename(dest)
    return _phases(completed.stdout, log)


def _phases(printed: str, log: Path) -> dict[str, str]:
    found = _MEASURED.search(printed)
    if found is None:
        raise FleetError("ukify printed no PCR 11 measurement", where=str(log))
    values = {PHASES[0]: found[1]}
    for before, phase in pairwise(PHASES):
        values[phase] = extend(values[before], phase)
    return values


def extend(value: str, word: str) -> str:
    """PCR value after a word was measured: H(old || H(word)), SHA-256 (TPM 2.0 part 1, section 17)."""
    return hashlib.sha256(bytes.fromhex(value) + hashlib.sha256(word.encode()).digest()).hexdigest()
