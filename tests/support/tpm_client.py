# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Use the TPM of a machine as an enrolment does, and more often; print how it went. Runs in an initrd."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._command import run
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._tpm.machine import AK, Tpm

DIRECTORY = Path("/run/tpm")
CREDENTIAL = os.urandom(32)
TIMES = 4  # a TPM has room for three keys, and for three sessions


def challenge(ak: AK) -> bytes:
    """What a server would send: TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET."""
    (DIRECTORY / "server").write_bytes(CREDENTIAL)
    run(["tpm2_readpublic", "-c", ak.context, "-n", DIRECTORY / "name"])
    name = (DIRECTORY / "name").read_bytes().hex()
    words = ["-T", "none", "-u", DIRECTORY / "ek.public", "-n", name, "-s", DIRECTORY / "server"]
    run(["tpm2_makecredential", *words, "-o", DIRECTORY / "made"])
    return (DIRECTORY / "made").read_bytes()[8:]  # behind magic and version of the tools' file format


def refusal(tpm: Tpm, ak: AK, made: bytes) -> str:
    """Why the TPM does not answer a challenge."""
    try:
        tpm.activate(ak, made, b"")
    except FleetError as exc:
        return exc.message
    return "none"


def main() -> None:
    """Print one line."""
    DIRECTORY.mkdir(mode=0o700)
    tpm = Tpm(DIRECTORY)
    ek, ak = tpm.read_ek(), tpm.make_ak()
    made = challenge(ak)
    registers = {
        number: Path(f"/sys/class/tpm/tpm0/pcr-sha256/{number}").read_text("ascii").strip().lower()
        for number in (4, 11)
    }
    told: dict[str, Any] = {
        "certificate": ek.certificate is not None,
        "refusal": refusal(tpm, ak, made[:-1] + bytes([made[-1] ^ 1])),
        "answers": [tpm.activate(ak, made, b"") == CREDENTIAL for _time in range(TIMES)],
        "quoted": [tpm.quote(ak, bytes(32), [4, 11]).pcrs == registers for _time in range(TIMES)],
        "same": tpm.make_ak().public == ak.public,
    }
    print("RESULT", base64.b64encode(json.dumps(told).encode()).decode(), flush=True)


if __name__ == "__main__":
    main()
