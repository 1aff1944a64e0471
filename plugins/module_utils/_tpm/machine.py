# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._command import CommandError, Completed, run
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._tpm.exchange import EK, Quote

DEVICE = Path("/dev/tpmrm0")  # the kernel's resource manager
_FIRST_TPM = Path("/sys/class/tpm/tpm0")
# Templates L-1 and L-2 of the TCG EK Credential Profile, and where their certificates are. The order must not change:
# the first one with a certificate, else the first, is the identity that a site lists.
_TEMPLATES = (("rsa", 0x01C00002), ("ecc", 0x01C0000A))
_MAKERS = "0x8101"  # persistent endorsement keys (TCG Registry of Reserved TPM 2.0 Handles)
_HANDLE = re.compile(r"^- 0x([0-9A-Fa-f]+)$", re.MULTILINE)
_AK_ATTRIBUTES = (
    "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|sign"  # noda: lockout is no matter
)
_REFUSED_CREDENTIAL = re.compile(r"^ERROR: Esys_ActivateCredential\(\w+\) - (.*)$", re.MULTILINE)
_REFUSED_CLEAR = re.compile(r"^ERROR: Esys_Clear\(\w+\) - (.*)$", re.MULTILINE)
_PCR_SIZE = 32
_EK_CONTEXT = "ek.context"
# In front of what tpm2_activatecredential(1) reads: magic and version of the file format of tpm2-tools.
_CREDENTIAL_FILE = bytes.fromhex("badcc0de 00000001")


@dataclass(frozen=True)
class AK:
    """An attestation key, which signs nothing but statements of its TPM.

    :param public: TPM2B_PUBLIC.
    :param context: what the TPM loads it from; encrypted by the TPM, and of no use after the next start.
    """

    public: bytes
    context: Path


class Tpm:
    """The TPM of this machine, reached through tpm2-tools(7).

    :param directory: for the files that the tools exchange, some of them secret: on a tmpfs, for its owner only.
    :param tcti: where the TPM is (tpm2-tools, "TCTI configuration"), if not at :data:`DEVICE`.
    :raises FleetError: there is no TPM 2.0, or others can read the directory.
    """

    def __init__(self, directory: Path, *, tcti: str | None = None) -> None:
        if not directory.is_dir() or directory.stat().st_mode & 0o077:
            raise FleetError("this is no directory for its owner only", where=str(directory))
        if tcti is None:
            _require_device()
        self._directory = directory
        self._has_ek = False  # a context of an earlier start would be refused
        self._tcti = tcti or f"device:{DEVICE}"
        # A resource manager forgets what a program loaded; without one, objects stay until the TPM has no room.
        self._managed = tcti is None or "tpmrm" in tcti or tcti.startswith("tabrmd")

    def read_ek(self) -> EK:
        """The endorsement key, with its certificate if the manufacturer left one in the TPM.

        :raises FleetError: somebody gave the endorsement hierarchy a password, or the TPM refuses.
        """
        listed = self._run("tpm2_getcap", "handles-nv-index", quiet=False).stdout
        indices = {int(handle, 16) for handle in _HANDLE.findall(listed)}
        algorithm, index = next((found for found in _TEMPLATES if found[1] in indices), (_TEMPLATES[0][0], None))
        public = self._file("ek.public")
        self._run("tpm2_createek", "-G", algorithm, "-c", self._file(_EK_CONTEXT), "-u", public)
        self._has_ek = True
        if index is None:
            return EK(public.read_bytes(), None)
        certificate = self._file("ek.certificate")
        self._run("tpm2_nvread", f"{index:#x}", "-o", certificate)
        return EK(public.read_bytes(), without_padding(certificate.read_bytes()))

    def make_ak(self) -> AK:
        """The attestation key: ECDSA on P-256, which every TPM 2.0 for PCs has.

        It is a primary key of the endorsement hierarchy: the same TPM gives the same key each time, so nothing has to
        be kept, and its quotes show the TPM's counters in clear.

        :raises FleetError: as for :meth:`read_ek`.
        """
        public, context = self._file("ak.public"), self._file("ak.context")
        kind = ["-G", "ecc256:ecdsa-sha256:null", "-g", "sha256", "-a", _AK_ATTRIBUTES]
        self._run("tpm2_createprimary", "-C", "e", *kind, "-c", context)
        self._run("tpm2_readpublic", "-c", context, "-o", public)
        return AK(public.read_bytes(), context)

    def activate(self, ak: AK, blob: bytes, secret: bytes) -> bytes:
        """Answer a server's challenge: return the credential that it encrypted for this TPM and this key.

        :param blob: TPM2B_ID_OBJECT.
        :param secret: TPM2B_ENCRYPTED_SECRET.
        :raises FleetError: the challenge is for another TPM or another key.
        """
        if not self._has_ek:
            self.read_ek()
        challenge, credential, session = (self._file(name) for name in ("challenge", "credential", "session"))
        challenge.write_bytes(_CREDENTIAL_FILE + blob + secret)
        try:
            self._run("tpm2_startauthsession", "--policy-session", "-S", session)
            try:
                self._run("tpm2_policysecret", "-S", session, "-c", "e")
                words: list[str | Path] = ["tpm2_activatecredential", "-i", challenge, "-o", credential]
                words += ["-c", ak.context, "-C", self._directory / _EK_CONTEXT, "-P", f"session:{session}"]
                done = self._run(*words, check=False)
            finally:
                self._run("tpm2_flushcontext", session)
            if refused := _REFUSED_CREDENTIAL.search(done.stderr):
                problem = "this TPM does not open the challenge: it is for another TPM or another attestation key"
                raise FleetError(f"{problem} ({refused[1]})")
            if done.returncode != 0:
                raise CommandError(done)
            return credential.read_bytes()
        finally:
            credential.unlink()

    def quote(self, ak: AK, nonce: bytes, pcrs: Sequence[int]) -> Quote:
        """Let the TPM sign its registers together with the server's nonce.

        :raises FleetError: the TPM keeps no SHA-256 values of these registers.
        """
        wanted = sorted(set(pcrs))
        attest, signature, values = (self._file(name) for name in ("attest", "signature", "pcrs"))
        selection = "sha256:" + ",".join(str(number) for number in wanted)
        words: list[str | Path] = ["tpm2_quote", "-c", ak.context, "-l", selection, "-q", nonce.hex(), "-g", "sha256"]
        self._run(*words, "-m", attest, "-s", signature, "-o", values, "-F", "values")
        data = values.read_bytes()
        if len(data) != _PCR_SIZE * len(wanted):
            raise FleetError(f"the TPM gave no values of the registers {selection}")
        digests = [data[start : start + _PCR_SIZE].hex() for start in range(0, len(data), _PCR_SIZE)]
        return Quote(attest.read_bytes(), signature.read_bytes(), dict(zip(wanted, digests, strict=True)))

    def clear(self) -> dict[str, Any]:
        """Take from the TPM whatever systems have left in it: keys, data, and all that was sealed by it.

        TPM2_Clear (TPM 2.0 Library part 3, 24.6) needs the authorisation of the lockout hierarchy, which nobody of us
        has given a password, or of the platform's, which firmware keeps for itself. Without it persistent keys go one
        by one, but for the maker's; and what was sealed can still be opened by who has the blob and the registers.

        :returns: evidence: whether it is ``cleared`` and ``by`` which hierarchy, persistent keys that were ``evicted``,
            those that are ``left``, and what the TPM said (``problem``).
        """
        before, problem = self._persistent(), ""
        for hierarchy in ("lockout", "platform"):
            done = self._run("tpm2_clear", "-c", hierarchy[0], check=False)
            if done.returncode == 0:
                left = self._persistent()
                gone = [handle for handle in before if handle not in left]
                return {"cleared": True, "by": hierarchy, "evicted": gone, "left": left, "problem": ""}
            said = _REFUSED_CLEAR.search(done.stderr)
            problem = problem or (said[1][:300] if said else "no reason given")
        for handle in before:
            if not handle.startswith(_MAKERS):
                self._run("tpm2_evictcontrol", "-C", "o", "-c", handle, check=False)
        left = self._persistent()
        gone = [handle for handle in before if handle not in left]
        return {"cleared": False, "by": "", "evicted": gone, "left": left, "problem": problem}

    def _persistent(self) -> list[str]:
        listed = self._run("tpm2_getcap", "handles-persistent", quiet=False).stdout
        return [f"{int(handle, 16):#x}" for handle in _HANDLE.findall(listed)]

    def _file(self, name: str) -> Path:
        """An empty file that only its owner may read: the tools keep the mode of one that is there."""
        path = self._directory / name
        path.unlink(missing_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        return path

    def _run(self, *words: str | Path, quiet: bool = True, check: bool = True) -> Completed:
        environment = {"TPM2TOOLS_TCTI": self._tcti, "TSS2_LOG": "all+ERROR"}
        command = [*words, "-Q"] if quiet else list(words)
        try:
            return run(command, env=environment, check=check)
        finally:
            if not self._managed:
                run(["tpm2_flushcontext", "-t"], env=environment, check=False)


def without_padding(certificate: bytes) -> bytes:
    """What manufacturers put behind a certificate to fill its place is no part of it (X.690, 8.1.3).

    Something that is no certificate comes back as it is: the server says what is wrong with it.
    """
    if certificate[:2] != b"\x30\x82":  # a SEQUENCE, its length in two bytes
        return certificate
    return certificate[: 4 + int.from_bytes(certificate[2:4], "big")]


def _require_device() -> None:
    if DEVICE.exists():
        return
    version = _FIRST_TPM / "tpm_version_major"
    if version.is_file() and version.read_text().strip() == "1":
        raise FleetError("this machine has a TPM 1.2, and a TPM 2.0 is needed", where=str(_FIRST_TPM))
    remedy = "switch the TPM on in the firmware's settings (it may be called PTT or fTPM)"
    raise FleetError("this machine shows no TPM 2.0", where=str(DEVICE), remedy=remedy)
