# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""What is believed of a machine's TPM. Everything that is judged here comes from a stranger."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cryptography import x509

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from vauban_enrolment import matching
from vauban_enrolment.case import Case
from vauban_enrolment.documents import QuoteIn, Tpm
from vauban_enrolment.lookup import candidates, expected, ordered
from vauban_enrolment.problems import Problem
from vauban_enrolment.storage import Enrolment
from vauban_enrolment.verifier import Challenge, Endorsement, Quote, Unable, Verifier

_LOG = logging.getLogger("enrolment")


@dataclass(frozen=True)
class Judge:
    """The verifier, asked so that a no has a reason and nothing a stranger sends is an error of ours."""

    verifier: Verifier
    authorities: Sequence[x509.Certificate]

    def examine(self, tpm: Tpm | None) -> tuple[str | None, str | None]:
        """The hash of the EK, or why the keys are none that an honest machine sends."""
        if tpm is None:
            return None, None
        endorsed: list[Endorsement] = []
        reason = _doubt(lambda: endorsed.append(self.verifier.check_ek(tpm.ek_public, None, ())))
        reason = reason or _doubt(lambda: self.verifier.check_ak(tpm.ak_public))
        return (endorsed[0].sha256, None) if reason is None else (None, reason)

    def claim(self, enrolment: Enrolment) -> matching.Claim:
        """What the machine says it is."""
        public, certificate = enrolment.ek_public, enrolment.ek_certificate
        certified = False
        if public is not None and certificate is not None and self.authorities:
            reason = _doubt(lambda: self.verifier.check_ek(public, certificate, self.authorities))
            certified = reason is None
            if reason is not None:
                _LOG.warning("the certificate of EK %s is not believed: %s", enrolment.ek_sha256, reason)
        version = enrolment.hardware.get("tpm_version")
        return matching.Claim(enrolment.ek_sha256, certified, enrolment.serial, frozenset(enrolment.macs), version)

    def match(self, case: Case) -> matching.Verdict:
        """Which host it is."""
        claim = self.claim(case.enrolment)
        order = ordered(case.session, claim, case.moment)
        return matching.judge(claim, candidates(case.session, claim), order)

    def challenge(self, enrolment: Enrolment) -> Challenge:
        """A new one for its EK and AK."""
        assert enrolment.ek_public is not None
        assert enrolment.ak_public is not None
        return self.verifier.make_challenge(enrolment.ek_public, self.verifier.name_of(enrolment.ak_public))

    def misquoted(self, case: Case, quoted: QuoteIn, when: str) -> str | None:
        """Why a quote does not show the registers of the release, if so."""
        wanted = expected(case.session, case.enrolment, when)
        public, nonce = case.enrolment.ak_public, case.enrolment.nonce
        if wanted is None or public is None or nonce is None:
            return "nothing is known that a quote could be compared with"
        quote = Quote(quoted.quote, quoted.signature, quoted.registers())
        return _doubt(lambda: self.verifier.check_quote(public, quote, nonce, wanted))


def _doubt(question: Callable[[], object]) -> str | None:
    """Why a TPM's word is not believed, if so. Whatever goes wrong with a stranger's bytes is a no.

    :raises Problem: 503 the server cannot judge now. Nothing has changed, and the machine asks again.
    """
    try:
        question()
    except (Unable, OSError, MemoryError) as exc:
        _LOG.error("the verifier is not able to judge: %s", exc)
        raise Problem(503, "not able to judge", retry_after=10) from None
    except FleetError as exc:
        return f"{exc.where}: {exc.message}" if exc.where else exc.message
    except Exception as exc:
        _LOG.error("the verifier failed: %s", type(exc).__name__)
        return f"cannot be judged: {type(exc).__name__}"
    return None
