# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils._atomic import replacing_file
from ansible_collections.vauban.fleet.plugins.module_utils._boot.key_reference import KeyReference
from ansible_collections.vauban.fleet.plugins.module_utils._command import CommandError
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox

SBSIGN = "/usr/lib/systemd/systemd-sbsign"
SOURCE = "/run/in/source"
CERTIFICATE = "/run/in/certificate.pem"
SIGNATURE = "/run/in/signature"
RESULT = "/run/out/result"
# By exactly the certificate that is shown, which is valid now and may sign code.
_VERIFY_CMS = ["openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", SIGNATURE, "-nointern"]
_VERIFY_CMS += ["-certfile", CERTIFICATE, "-CAfile", CERTIFICATE, "-no-CApath", "-no-CAstore", "-purpose", "codesign"]


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
        verify_cms(sandbox, file, signature, certificate)


def verify_cms(sandbox: Sandbox, file: Path, signature: Path, certificate: Path) -> None:
    """Check the CMS signature of a file: made by exactly this certificate, which is valid now and may sign code.

    Neither the certificates inside the signature nor those of the system count; nor does a file that it holds.

    :raises FleetError: the file was changed, or the signature is not by this certificate.
    """
    command = [*_VERIFY_CMS, "-content", SOURCE, "-out", "/dev/null"]
    _verify(sandbox, command, file, certificate, Bind(signature, SIGNATURE))


def signed_content(sandbox: Sandbox, signature: Path, certificate: Path) -> str | None:
    """The text that a CMS signature holds; None if it is not by this certificate, as :func:`verify_cms` wants it."""
    binds = [Bind(signature, SIGNATURE), Bind(certificate, CERTIFICATE)]
    done = sandbox.run(_VERIFY_CMS, binds=binds, check=False)
    return done.stdout if done.returncode == 0 else None


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
