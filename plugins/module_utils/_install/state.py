# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._command import run
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install import sharing

MAPPER = "state"
SECRETS = "/run"  # a tmpfs
# Where on the volume the host's configuration is, which stands in front of that of the core.
CONFIGURATION = "configuration"
_ZERO = "0" * 64
# Registers that are untouched while the initrd of a signed UKI runs, whatever the machine: 12 holds command lines and
# credentials from outside the image, 15 the volume keys already used (systemd-stub(7), crypttab(5)).
_EXPECTED_ZERO = (12, 15)
SECURE_BOOT_PCR = 7  # which keys and programs firmware trusts, and forbids
_TOKENS = ["systemd-recovery", "systemd-tpm2"]
_OWN_SLOT = "0"  # of the installation's own key


def format_volume(device: Path, key: bytes) -> None:
    """LUKS2 with authenticated sectors (dm-crypt over dm-integrity); the whole device is initialised.

    The key has full entropy, so its derivation need not be slow.
    """
    command = ["cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", "--cipher", "aes-xts-plain64"]
    command += ["--key-size", "512", "--integrity", "hmac-sha256", "--sector-size", "4096", "--label", "state"]
    command += ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "-", str(device)]
    run(command, stdin=key)


def admit_key(device: Path, recovery: bytes, key: bytes) -> list[str]:
    """Let the installation's own key open a volume that is there, and the TPM of before no more.

    :param recovery: the volume's recovery key. It still opens it.
    :returns: key slots that have to go when there is another recovery key (:func:`seal`).
    :raises FleetError: the recovery key is not this volume's.
    """
    if not _opens(device, recovery):
        remedy = "name the one of this disk: provision_recover_escrow"
        raise FleetError("the recovery key does not open the volume", where=str(device), remedy=remedy)
    if _OWN_SLOT in _slots(device):  # power was cut the last time
        run(["cryptsetup", "luksKillSlot", "--batch-mode", "--key-file", "-", device, _OWN_SLOT], stdin=recovery)
    with tempfile.TemporaryDirectory(prefix="admit-", dir=SECRETS) as name:
        files = [Path(name) / each for each in ("recovery", "own")]
        for path, content in zip(files, (recovery, key), strict=True):
            path.touch(mode=0o600)
            path.write_bytes(content)
        fast = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]
        words = ["--batch-mode", "--key-slot", _OWN_SLOT, *fast, "--key-file", str(files[0]), str(device)]
        run(["cryptsetup", "luksAddKey", *words, str(files[1])])
    # Before the new TPM is enrolled: where registers are as they were, systemd-cryptenroll finds that nothing is to do.
    run(["systemd-cryptenroll", "--wipe-slot=tpm2", device])
    return [slot for slot in _slots(device) if slot != _OWN_SLOT]


def enroll(
    device: Path,
    key: bytes,
    *,
    pcrs: Sequence[int],
    public_key: str,
    escrow: Mapping[str, Any],
    old: Sequence[str] = (),
) -> dict[str, Any]:
    """Give the volume a recovery key and let the TPM open it. The installation's own key still does, too.

    :param pcrs: registers bound literally; the signed policy on PCR 11 comes on top (systemd-cryptenroll(1)).
    :param public_key: PEM, of the key that signs the PCR 11 policies of this product's UKIs.
    :param escrow: ``recipients`` of age, and ``threshold``: how many of them it takes to open the recovery key (1
        unless given). It is encrypted here and never stored in clear.
    :param old: key slots that will go (:func:`admit_key`).
    :returns: evidence: tokens and key slots that the header will have after :func:`seal`, and the encrypted recovery
        key (armoured), shared among officers if it takes several.
    :raises FleetError: no recipient, or the header does not end up as intended.
    """
    if not escrow["recipients"]:
        raise FleetError("no escrow recipient: the recovery key would be lost", where="manifest.json: escrow")
    with tempfile.TemporaryDirectory(prefix="seal-", dir=SECRETS) as name:
        unlock, public = Path(name) / "unlock", Path(name) / "public.pem"
        unlock.touch(mode=0o600)
        unlock.write_bytes(key)
        public.write_text(public_key)
        enroll = ["systemd-cryptenroll", f"--unlock-key-file={unlock}"]
        recovery = run([*enroll, "--recovery-key", device]).stdout.strip().encode()
        policy = [f"--tpm2-pcrs={bound(pcrs)}", f"--tpm2-public-key={public}", "--tpm2-public-key-pcrs=11"]
        run([*enroll, "--tpm2-device=auto", *policy, device])
    escrowed = _escrowed(recovery, escrow["recipients"], escrow.get("threshold", 1))
    if not _opens(device, recovery):
        raise FleetError("the new recovery key does not open the volume", where=str(device))
    return {**_header(device, without=[_OWN_SLOT, *old]), **escrowed, "pcrs": [*pcrs, 11]}


@contextmanager
def opened(device: Path, key: bytes, *, new: bool = True) -> Iterator[Path]:
    """The volume, mounted at the directory that this yields.

    :param new: with a new file system. Else with the one that is there.
    """
    run(["cryptsetup", "open", "--key-file", "-", device, MAPPER], stdin=key)
    try:
        volume = f"/dev/mapper/{MAPPER}"
        if new:
            run(["mkfs.ext4", "-q", "-L", "state", volume])
        with tempfile.TemporaryDirectory(prefix="state-") as name:
            run(["mount", "-o", "nodev,nosuid,noexec", volume, name])
            try:
                yield Path(name)
            finally:
                run(["umount", name])
    finally:
        run(["cryptsetup", "close", MAPPER])


def make_places(root: Path, places: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Make the writable places of the machine.

    :param root: where the volume is mounted.
    :param places: as ``files/state_places.yml``.
    :returns: evidence: the machine id, and the places made.
    """
    machine_id = secrets.token_hex(16)
    for place in places:
        path = (root / CONFIGURATION if place["kind"] == "configuration" else root) / place["path"].lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if place["kind"] != "file":
            path.mkdir(exist_ok=True)
        else:
            path.write_text(f"{machine_id}\n" if place["path"] == "/etc/machine-id" else "")
        path.chmod(int(place["mode"], 8))
    os.sync()
    return {"machine_id": machine_id, "places": [place["path"] for place in places]}


def seal(device: Path, key: bytes, old: Sequence[str] = ()) -> dict[str, Any]:
    """Let nothing but the TPM and the recovery key open the volume any more.

    :param old: key slots that go, too (:func:`admit_key`).
    :returns: evidence: tokens and key slots as the header shows them.
    :raises FleetError: the header does not end up as intended.
    """
    run(["systemd-cryptenroll", f"--wipe-slot={','.join([_OWN_SLOT, *old])}", device])
    if _opens(device, key):
        raise FleetError("the installation's own key still opens the volume", where=str(device))
    return _header(device)


def new_key() -> bytes:
    """A key of 512 random bits; it lives in this process and on a tmpfs only."""
    return secrets.token_bytes(64)


def bound(pcrs: Sequence[int]) -> str:
    """Registers as option ``--tpm2-pcrs`` of systemd-cryptenroll(1) binds a volume to them."""
    return "+".join(_register(number) for number in pcrs)


def _register(number: int) -> str:
    return f"{number}:sha256={_ZERO}" if number in _EXPECTED_ZERO else str(number)


def _escrowed(recovery: bytes, recipients: Sequence[str], threshold: int) -> dict[str, Any]:
    if threshold > 1:
        return sharing.share(recovery, recipients, threshold)
    return {"recovery_key": sharing.encrypt(recovery, recipients)}


def _opens(device: Path, key: bytes) -> bool:
    command = ["cryptsetup", "open", "--test-passphrase", "--disable-external-tokens", "--key-file", "-", str(device)]
    return run(command, stdin=key, check=False).returncode == 0


def _slots(device: Path) -> list[str]:
    return sorted(_metadata(device)["keyslots"])


def _metadata(device: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(run(["cryptsetup", "luksDump", "--dump-json-metadata", device]).stdout)
    return read


def _header(device: Path, *, without: Sequence[str] = ()) -> dict[str, Any]:
    """Key slots and tokens of the LUKS2 header.

    :param without: slots that are not counted.
    :raises FleetError: other than exactly one TPM slot and one recovery slot.
    """
    header = _metadata(device)
    counted = [token for token in header["tokens"].values() if not set(token["keyslots"]) & set(without)]
    tokens = sorted(token["type"] for token in counted)
    slots = sorted(slot for slot in header["keyslots"] if slot not in without)
    if tokens != _TOKENS or len(slots) != len(_TOKENS):
        raise FleetError(f"expected the tokens {_TOKENS}, found {tokens} with key slots {slots}", where=str(device))
    segment = header["segments"]["0"]
    return {
        "tokens": tokens,
        "key_slots": slots,
        "encryption": segment["encryption"],
        "integrity": segment["integrity"]["type"],
    }
