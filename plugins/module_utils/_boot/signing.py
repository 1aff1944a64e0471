# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils._atomic import replacing_file
from ansible_collections.vauban.fleet.plugins.module_utils._boot.key_reference import KeyReference
from ansible_collections.vauban.fleet.plugins.module_utils._command import CommandError
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._signatures import Trust

SBSIGN = "/usr/lib/systemd/systemd-sbsign"
SOURCE = "/run/in/source"
CERTIFICATE = "/run/in/certificate.pem"
SIGNATURE = "/run/in/signature"
RESULT = "/run/out/result"
ROOT = "/run/in/root.pem"
_VERIFY_CMS = ["openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", SIGNATURE]
# By exactly the certificate that is shown, which is valid now.
_EXACTLY = ["-nointern", "-certfile", CERTIFICATE, "-CAfile", CERTIFICATE, "-partial_chain"]
_EXACTLY += ["-no-CApath", "-no-CAstore", "-purpose", "any"]
# Who signs with another certificate now wants to know what was said before, and until when does not matter then.
_EVER = ["-no_check_time"]


def sign_pe(sandbox: Sandbox, source: Path, dest: Path, key: KeyReference, certificate: Path) -> None:
    """Sign a PE binary for Secure Boot (Authenticode, systemd-sbsign(1)) and verify it before it gets its name.

    A binary that is already signed gets one more signature. Two runs differ: the signature holds its time.

    :raises FleetError: unusable key, or a key that does not belong to the certificate.
    """
    command = [SBSIGN, "sign", *key.systemd_arguments(), f"--certificate={CERTIFICATE}", f"--output={RESULT}", SOURCE]
    with _signing(sandbox, command, source, dest, key, certificate) as signed:
        verify_pe(sandbox, signed, certificate)


def verify_pe(sandbox: Sandbox, file: Path, certificate: Path) -> None:
    """Check that a PE binary is unchanged and signed with this certificate (sbverify(1)).

    :raises FleetError: it is not.
    """
    _verify(sandbox, ["sbverify", "--cert", CERTIFICATE, SOURCE], file, certificate)


def sign_cms(
    sandbox: Sandbox, file: Path, key: KeyReference, certificate: Path, dest: Path, *, attached: bool = False
) -> None:
    """Write the CMS signature (RFC 5652, DER, SHA-256) of a file and verify it before it gets its name.

    :param attached: the signature holds the file, too.
    :raises FleetError: unusable key, or a key that does not belong to the certificate.
    """
    command = ["openssl", "cms", "-sign", "-binary", "-md", "sha256", "-nosmimecap", "-outform", "DER"]
    command += ["-nodetach"] if attached else []
    command += ["-in", SOURCE, "-signer", CERTIFICATE, *key.openssl_arguments(), "-out", RESULT]
    with _signing(sandbox, command, file, dest, key, certificate) as signature:
        command = [*_VERIFY_CMS, *_EXACTLY, "-content", SOURCE, "-out", "/dev/null"]
        _verify(sandbox, command, file, certificate, Bind(signature, SIGNATURE))


def verify_cms(sandbox: Sandbox, file: Path, signature: Path, trust: Trust) -> None:
    """Check the CMS signature of a file as machines do.

    Neither the authorities of the system nor a file that the signature holds count.

    :raises FleetError: the file was changed, or the signature is by none that is believed.
    """
    _require(trust)
    command = [*_VERIFY_CMS, *trust.openssl(ROOT), "-content", SOURCE, "-out", "/dev/null"]
    binds = [Bind(file, SOURCE), Bind(trust.root, ROOT), Bind(signature, SIGNATURE)]
    try:
        sandbox.run(command, binds=binds)
    except CommandError as exc:
        message = f"no valid signature with key {trust.key}, by {trust.root}: {_reason(exc.message)}"
        raise FleetError(message, where=str(file)) from exc


def signed_content(sandbox: Sandbox, signature: Path, trust: Trust) -> str | None:
    """The text that a CMS signature holds, which is believed now or was once; None if it never was.

    A certificate that expired or was revoked counts here: what it signed is the signer's own memory.

    :raises FleetError: nobody is believed.
    """
    _require(trust)
    believed = [each for each in trust.openssl(ROOT) if each != "-crl_check"]
    binds = [Bind(signature, SIGNATURE), Bind(trust.root, ROOT)]
    done = sandbox.run([*_VERIFY_CMS, *believed, *_EVER], binds=binds, check=False)
    return done.stdout if done.returncode == 0 else None


def signed_by(sandbox: Sandbox, signature: Path, certificate: Path) -> bool:
    """Whether a signature that holds its text is by exactly this certificate."""
    binds = [Bind(signature, SIGNATURE), Bind(certificate, CERTIFICATE)]
    done = sandbox.run([*_VERIFY_CMS, *_EXACTLY, "-out", "/dev/null"], binds=binds, check=False)
    return done.returncode == 0


def _require(trust: Trust) -> None:
    if not trust.root.is_file():
        remedy = "run playbook pki, which makes it from root.crt and root.crl"
        raise FleetError("the certificate of the root with its list is not there", where=str(trust.root), remedy=remedy)


def _reason(said: str) -> str:
    """What of openssl's words is for people."""
    found: list[str] = re.findall(r"Verify error: ?(.*)", said)
    last = found[-1] if found else said
    return "the certificate is that of another key" if last == "hostname mismatch" else last


@contextmanager
def _signing(
    sandbox: Sandbox, command: Sequence[str], source: Path, dest: Path, key: KeyReference, certificate: Path
) -> Iterator[Path]:
    """Run the signing program, the key visible to it alone; what it wrote takes its name when the block succeeds."""
    key.check()
    dest.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{dest.name}.", dir=dest.parent) as output:
        binds = [Bind(source, SOURCE), Bind(certificate, CERTIFICATE), Bind(Path(output), "/run/out", writable=True)]
        sandbox.run(command, binds=[*binds, *key.binds()], env=key.environment())
        result = Path(output) / "result"
        yield result
        with replacing_file(dest) as temporary:
            result.rename(temporary)


def _verify(sandbox: Sandbox, command: Sequence[str], file: Path, certificate: Path, *binds: Bind) -> None:
    try:
        sandbox.run(command, binds=[Bind(file, SOURCE), Bind(certificate, CERTIFICATE), *binds])
    except CommandError as exc:
        raise FleetError(f"no valid signature by {certificate}: {exc.message}", where=str(file)) from exc
