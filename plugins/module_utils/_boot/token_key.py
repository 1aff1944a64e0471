# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""A private key on an elliptic curve that never leaves its PKCS#11 token, for the certificates that cryptography makes.

cryptography takes any key of its abstract class, so a token needs no code of its own for certificates and lists.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from ansible_collections.vauban.fleet.plugins.module_utils._boot.certificate import CRYPTOGRAPHY_ERROR
from ansible_collections.vauban.fleet.plugins.module_utils._boot.key_reference import KeyReference
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

if CRYPTOGRAPHY_ERROR is None:
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    class TokenKey(ec.EllipticCurvePrivateKey):
        """Signs with ECDSA and SHA-256 by openssl-dgst(1), in the sandbox.

        :param reference: where the key is.
        :raises FleetError: unusable reference, no such key in the token, or one of another algorithm or curve.
        """

        def __init__(self, reference: KeyReference, sandbox: Sandbox) -> None:
            reference.check()
            self._reference, self._sandbox = reference, sandbox
            pem = self._openssl("pkey", "-in", reference.argument, "-pubout")
            public = serialization.load_pem_public_key(pem.encode())
            if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
                raise FleetError("the key is not on curve P-256", where=reference.location)
            self._public = public

        def _openssl(self, *arguments: str, stdin: bytes | None = None) -> str:
            return self._sandbox.run(
                ["openssl", *arguments],
                binds=self._reference.binds(),
                env=self._reference.environment(),
                stdin=stdin,
            ).stdout

        def public_key(self) -> ec.EllipticCurvePublicKey:
            return self._public

        @property
        def curve(self) -> ec.EllipticCurve:
            return self._public.curve

        @property
        def key_size(self) -> int:
            return self._public.key_size

        def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
            """:returns: the signature in DER, which was verified."""
            algorithm: hashes.HashAlgorithm | Prehashed = signature_algorithm.algorithm
            if not isinstance(algorithm, hashes.SHA256):
                raise FleetError(
                    f"a key in a token signs SHA-256 only, not {algorithm}", where=self._reference.location
                )
            said = self._openssl("dgst", "-sha256", "-hex", "-sign", self._reference.argument, stdin=bytes(data))
            signature = bytes.fromhex(said.rpartition("= ")[2].strip())
            self._public.verify(signature, bytes(data), signature_algorithm)
            return signature

        def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> NoReturn:
            self._refuse()

        def private_numbers(self) -> NoReturn:
            self._refuse()

        def private_bytes(
            self,
            encoding: serialization.Encoding,
            format: serialization.PrivateFormat,
            encryption_algorithm: serialization.KeySerializationEncryption,
        ) -> NoReturn:
            self._refuse()

        def __copy__(self) -> TokenKey:
            return self

        def __deepcopy__(self, memo: dict[Any, Any]) -> TokenKey:
            return self

        def _refuse(self) -> NoReturn:
            raise FleetError("a token gives no private key out", where=self._reference.location)
