# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Whose signature counts: that of a certificate which the product's root has issued for this use, and not revoked.

Standard library only, since the installer verifies releases, too. The shell's copy of this rule is
``/usr/lib/vauban/signatures`` of role signatures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# What each key below the root may sign, as openssl names the purpose (openssl-verification-options(1)). RAUC knows
# purposes, and no names: what is signed with another key than release is code to nobody.
PURPOSES = {"release": "codesign", "publish": "smimesign", "configuration": "smimesign"}


@dataclass(frozen=True)
class Trust:
    """What is believed.

    :param root: PEM file with the certificate of the root and its list of revoked certificates.
    :param key: name of the key that has to have signed: one of :data:`PURPOSES`. It is the common name of the
        certificate, and ``-verify_hostname`` is how openssl compares that.
    """

    root: Path
    key: str

    def openssl(self, root: str | None = None) -> list[str]:
        """Options of ``openssl cms -verify`` (OpenSSL 3.2 or newer).

        :param root: where that program sees the file.
        """
        return [
            "-CAfile", root or str(self.root), "-no-CApath", "-no-CAstore",
            "-purpose", PURPOSES[self.key], "-verify_hostname", self.key, "-crl_check",
        ]  # fmt: skip
