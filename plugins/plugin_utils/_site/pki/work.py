# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""What a verb of role ``site_pki`` has to do about what there is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.pki import state
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.pki.files import ISSUING, ROOT
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.pki.signer import Signer
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.pki.state import (
    ABSENT,
    ENDED,
    ENDING,
    UNFIT,
    VALID,
    WITHDRAWN,
    HostCertificate,
    Part,
)
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.plan import Plan

VERBS = ("create", "renew", "revoke", "revoke_issuing", "list", "expiring", "crl", "install")
# Verbs that revoke, and the authority whose list says so.
_WITHDRAWS = {"revoke": ISSUING, "revoke_issuing": ROOT}
# Of each state, the verbs that make a new one.
_MAKES = {
    ABSENT: ("create",),
    ENDING: ("renew",),
    ENDED: ("create", "renew"),
    WITHDRAWN: ("create",),
    UNFIT: ("create", "renew"),
}


@dataclass(frozen=True)
class Work:
    """What there is, and what a verb has to do about it.

    :param authorities: the root, then the issuing authority.
    :param lists: theirs.
    :param due: files that have to be made, or made anew.
    :param withdrawals: certificates to revoke.
    """

    verb: str
    authorities: list[Part]
    lists: list[Part]
    certificates: list[HostCertificate]
    due: frozenset[Path]
    withdrawals: tuple[Path, ...] = ()

    @classmethod
    def of(
        cls, plan: Plan, directory: Path, hosts: Iterable[str], verb: str, *, days: int, force: bool = False
    ) -> Work:
        """Look at all of it.

        :param days: what ends within so many is ending.
        :param force: whether ``renew`` and ``crl`` also take what is not ending.
        """
        authorities = state.authorities(directory, days=days)
        lists = state.revocation_lists(directory)
        certificates = state.host_certificates(plan, directory, hosts, days=days)
        due = {each.path for each in authorities if verb in _MAKES.get(each.state, ())}
        due |= {each.path for each in lists if _signs(verb, each, force)}
        due |= {each.path for each in certificates if _makes(verb, each, force)}
        return cls(verb, authorities, lists, certificates, frozenset(due))

    def revoking(self, paths: Iterable[Path]) -> Work:
        """The same, with certificates to revoke."""
        withdrawals = tuple(paths)
        signed = [each.path for each in self.lists if withdrawals and each.name == _WITHDRAWS[self.verb]]
        return replace(self, withdrawals=withdrawals, due=self.due.union(signed))

    @property
    def warnings(self) -> list[str]:
        """What the root has to do before long."""
        return [
            f"{part.path}: ends on {part.ends:%Y-%m-%d}; bring the key of the root and run verb renew"
            for part in self._of_root
            if part.state == ENDING and part.ends is not None
        ]

    def settled(self, signers: Mapping[str, Signer]) -> Work:
        """The same without what can wait for the key of the root, once all is there that it takes.

        :raises FleetError: something is missing.
        """
        if self.verb in ("list", "expiring", "install"):
            return self
        root, issuing = self.authorities
        for authority in (root, issuing):
            self._check(authority)
        takes_root = self._takes_root(signers)
        if root.path in self.due and root.state == ABSENT:
            signers[ROOT].check_new()
        elif takes_root:
            signers[ROOT].load()
        of_root = frozenset(part.path for part in self._of_root)
        if issuing.state in (ABSENT, WITHDRAWN) and issuing.path in self.due:
            signers[ISSUING].check_new()
        elif self.due - of_root and (issuing.state != ENDED or issuing.path not in self.due):
            signers[ISSUING].load()
        return self if takes_root else replace(self, due=self.due - of_root)

    def _check(self, authority: Part) -> None:
        known = any(certificate.serial for certificate in self.certificates)
        if authority.state == ABSENT and (self.verb != "create" or known):
            raise FleetError(
                "is not there, but it is needed",
                where=str(authority.path),
                remedy="bring it back, or begin with -e site_pki_verb=create where there are no certificates yet",
            )
        if authority.state == WITHDRAWN and authority.name == ISSUING:
            if self.verb not in ("create", "revoke_issuing"):
                raise FleetError(
                    "is revoked, and signs nothing any more",
                    where=str(authority.path),
                    remedy="bring the key of the root and make another: -e site_pki_verb=create",
                )
        elif authority.state in (UNFIT, WITHDRAWN):
            raise FleetError(
                f"cannot be used: {authority.reason or authority.state}",
                where=str(authority.path),
                remedy="bring back the site's own; to begin anew, move its directory and keys away",
            )

    @property
    def _of_root(self) -> list[Part]:
        """What the root signs."""
        return [*self.authorities, *(each for each in self.lists if each.name == ROOT)]

    def _takes_root(self, signers: Mapping[str, Signer]) -> bool:
        """Whether the root has to sign now. What only ends before long can wait for its key, but no revocation."""
        due = [part for part in self._of_root if part.path in self.due]
        waits = self.verb != "revoke_issuing" and all(part.state == ENDING for part in due)
        return bool(due) and (not waits or signers[ROOT].key.exists())


def _makes(verb: str, certificate: HostCertificate, force: bool) -> bool:
    """Whether a verb makes another one. Nothing is made for a host that the site does not have."""
    forced = force and verb == "renew" and certificate.state not in (ABSENT, WITHDRAWN)
    return bool(certificate.names) and (forced or verb in _MAKES.get(certificate.state, ()))


def _signs(verb: str, revocations: Part, force: bool) -> bool:
    if verb == "crl" and force and revocations.name == ISSUING:
        return True
    if verb in ("renew", "crl"):
        return revocations.state != VALID
    needed = verb == "create" or revocations.name == _WITHDRAWS.get(verb)
    return needed and revocations.state in (ABSENT, ENDED, UNFIT)
