# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

# What firmware measures into PCR 4 when it tries its first boot option: an EV_EFI_ACTION, then the EV_SEPARATOR
# (TCG PC Client Platform Firmware Profile 1.06, 3.3.4.5).
_FIRST_BOOT_OPTION = (b"Calling EFI Application from Boot Option", bytes(4))


def authenticode(file: Path) -> str:
    """What firmware measures of a PE binary that it loads: its Authenticode digest (SHA-256, hexadecimal).

    The digest leaves out checksum and signatures, so it is the same before and after signing.

    :raises FleetError: not a PE binary.
    """
    import pefile
    from virt.peutils.pesign import pe_authenticode_hash

    try:
        with pefile.PE(str(file), fast_load=True) as binary:
            digest: bytes = pe_authenticode_hash(binary)
    except (pefile.PEFormatError, FileNotFoundError) as exc:
        raise FleetError(f"not a PE binary: {exc}", where=str(file)) from exc
    return digest.hex()


def policy_keys(file: Path) -> list[str]:
    """Which keys have signed a policy for PCR 11 that this UKI carries: fingerprints as systemd-measure(1) gives them.

    :returns: SHA-256 of each public key (PKCS#1, DER), hexadecimal and sorted.
    :raises FleetError: not a PE binary, or one that carries no such policy.
    """
    import pefile

    try:
        with pefile.PE(str(file), fast_load=True) as binary:
            found = [section for section in binary.sections if section.Name.rstrip(b"\0") == b".pcrsig"]
            texts = [section.get_data()[: section.Misc_VirtualSize].rstrip(b"\0") for section in found]
    except (pefile.PEFormatError, FileNotFoundError) as exc:
        raise FleetError(f"not a PE binary: {exc}", where=str(file)) from exc
    try:
        signatures = [signature for text in texts for signature in json.loads(text)["sha256"]]
        keys = sorted({str(signature["pkfp"]) for signature in signatures if signature["pcrs"] == [11]})
    except (ValueError, KeyError, TypeError) as exc:
        raise FleetError(f"its section .pcrsig cannot be read: {exc}", where=str(file)) from exc
    if not keys:
        raise FleetError("it carries no signed policy for PCR 11", where=str(file))
    return keys


def boot_pcr(started: Iterable[Path]) -> str:
    """PCR 4 (SHA-256 bank, hexadecimal) after the first boot option started these PE binaries, in this order.

    Name what firmware loads: boot loader and UKI, or the UKI alone. The kernel in a UKI does not count, because
    systemd-stub 257 places it in memory itself instead of asking firmware. If an earlier boot option failed, firmware
    has measured that too and the value differs.

    :raises FleetError: not a PE binary.
    """
    digests = [hashlib.sha256(event).digest() for event in _FIRST_BOOT_OPTION]
    digests += [bytes.fromhex(authenticode(file)) for file in started]
    value = bytes(32)
    for digest in digests:
        value = hashlib.sha256(value + digest).digest()
    return value.hex()
