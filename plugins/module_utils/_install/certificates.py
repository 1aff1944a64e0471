# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""The machine's own keys: made here, certified by the site, and never anywhere else (``docs/site-pki.md``).

Certificates of authorities and revocation lists are public, and come with the host's configuration.
"""

from __future__ import annotations

import base64
import hashlib
import os
import posixpath
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ansible_collections.vauban.fleet.plugins.module_utils._command import CommandError, run
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install.places import Places


class _Place(NamedTuple):
    """Where a key and its certificate go.

    :param directory: mode of the directory of the key.
    :param chain: whether the certificates above it go into the same file; the root never does.
    """

    key: str
    certificate: str
    user: str
    group: str
    mode: int
    directory: int
    chain: bool


# As role site_pki installs them, and the roles that use them expect.
_VAR = "/var/lib/vauban"
_PLACES = {
    "hosts": _Place(
        "/etc/swanctl/private/host.pem", "/etc/swanctl/x509/host.pem", "ipsec", "ipsec", 0o600, 0o700, chain=False
    ),
    "https": _Place(
        f"{_VAR}/https/key.pem", f"{_VAR}/https/certificate.pem", "root", "www-data", 0o640, 0o750, chain=True
    ),
    "nts": _Place(f"{_VAR}/nts/key.pem", f"{_VAR}/nts/certificate.pem", "root", "_chrony", 0o640, 0o750, chain=True),
}
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_OID = re.compile(r"[0-2](\.[0-9]{1,12}){1,15}")
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----\s([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")


def make(directory: Path, wanted: Mapping[str, Any]) -> bytes:
    """Make a key and the request for its certificate.

    :param directory: where the key waits for its certificate: on a tmpfs, for its owner only.
    :param wanted: ``name`` (:data:`_PLACES`), ``subject``, ``dns`` and ``usages`` (dotted numbers), as the site gives
        them.
    :returns: PKCS #10 (PEM).
    :raises FleetError: the site wants something that is no certificate of a host.
    """
    name, subject = wanted["name"], wanted["subject"]
    _place(name)
    names, usages = list(wanted["dns"]), list(wanted["usages"])
    if not all(_HOST.fullmatch(each) for each in [subject, *names]) or not all(_OID.fullmatch(each) for each in usages):
        raise FleetError("the site wants a certificate for something that is no name", where=f"certificate {name}")
    if directory.stat().st_mode & 0o077:
        raise FleetError("this is no directory for its owner only", where=str(directory))
    key = _waiting(directory, name)
    made = run(["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]).stdout_bytes
    with os.fdopen(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(made)
    extensions = [
        "subjectAltName=" + ",".join(f"DNS:{each}" for each in names),
        "basicConstraints=critical,CA:FALSE",
        "keyUsage=critical,digitalSignature",
        "extendedKeyUsage=" + ",".join(usages),
    ]
    command = ["openssl", "req", "-new", "-sha256", "-config", "/dev/null", "-key", str(key), "-subj", f"/CN={subject}"]
    return run([*command, *(word for each in extensions for word in ("-addext", each))]).stdout_bytes


def shown(directory: Path, name: str, chain: bytes) -> tuple[Path, Path]:
    """A certificate and its key, as files that a client of TLS reads, while the key waits.

    :param directory: that of :func:`make`.
    :param chain: as for :func:`place`. The certificates above it are left out: of a chain the server's OpenSSL finds
        that it is for IPsec, and nginx refuses it (X509_V_ERR_INVALID_PURPOSE).
    :raises FleetError: there is no certificate.
    """
    certificate = directory / f"{name}.pem"
    certificate.write_bytes(_certificates(name, chain)[0][0] + b"\n")
    return certificate, _waiting(directory, name)


def remove(state: Path, core: Path) -> None:
    """Remove the keys and certificates of a machine that gets others: they were another's."""
    places = Places(state, core)
    for place in _PLACES.values():
        places.remove(place.key)
        places.remove(place.certificate)


def place(directory: Path, name: str, chain: bytes, state: Path, core: Path) -> dict[str, str]:
    """Bring a key and its certificate to where the machine uses them. The key leaves the directory.

    :param directory: that of :func:`make`.
    :param chain: the certificate, and those above it (PEM).
    :param state: the mounted state volume.
    :param core: the mounted core, which knows the numbers of accounts.
    :returns: evidence: the name, and the SHA-256 of the certificate.
    :raises FleetError: the certificate is for another key, or the core has no such account.
    """
    place, waiting = _place(name), _waiting(directory, name)
    found = _certificates(name, chain)
    own = _public(["openssl", "pkey", "-pubout"], waiting.read_bytes())
    if _public(["openssl", "x509", "-noout", "-pubkey"], found[0][0]) != own:
        raise FleetError("the site gave the certificate of another key", where=f"certificate {name}")
    kept = [found[0], *(each for each in found[1:] if place.chain and not _is_root(each[0]))]
    places = Places(state, core)
    owner = (places.number("passwd", place.user), places.number("group", place.group))
    places.write(place.key, waiting.read_bytes(), mode=place.mode, owner=owner)
    places.give(posixpath.dirname(place.key), mode=place.directory, owner=owner)
    places.write(place.certificate, b"".join(each[0] + b"\n" for each in kept), mode=0o644)
    waiting.unlink()
    return {"name": name, "sha256": hashlib.sha256(base64.b64decode(found[0][1])).hexdigest()}


def _place(name: str) -> _Place:
    try:
        return _PLACES[name]
    except KeyError:
        raise FleetError("nothing on this machine uses such a certificate", where=f"certificate {name}") from None


def _certificates(name: str, chain: bytes) -> list[re.Match[bytes]]:
    """Those of the chain: each PEM, and its base64."""
    found = list(_PEM.finditer(chain))
    if not found:
        raise FleetError("the site gave no certificate", where=f"certificate {name}")
    return found


def _waiting(directory: Path, name: str) -> Path:
    return directory / f"{name}.key"


def _public(command: list[str], given: bytes) -> bytes:
    try:
        return run(command, stdin=given).stdout_bytes
    except CommandError as exc:
        raise FleetError(f"cannot be read: {exc.message}", where=" ".join(command[:2])) from exc


def _is_root(certificate: bytes) -> bool:
    """Whether it names itself as its issuer."""
    command = ["openssl", "x509", "-noout", "-subject_hash", "-issuer_hash"]
    return len(set(_public(command, certificate).split())) == 1
