# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Which host a machine is, and whether it may be installed. Serial number and MAC addresses are hints, never proof."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vauban_enrolment.documents import Expectation


@dataclass(frozen=True)
class Claim:
    """What a machine says it is. Only the EK will have to be proven."""

    ek_sha256: str | None
    certified: bool  # by a manufacturer that the site knows
    serial: str | None
    macs: frozenset[str]
    tpm_version: str | None = None


@dataclass(frozen=True)
class Known:
    """A host: what is expected of it, and what it turned out to be."""

    name: str
    expectation: Expectation
    enrolled_ek: str | None
    installed: bool

    @property
    def eks(self) -> set[str]:
        """The EKs that are this host's. Once it is installed, another that is listed is a replacement."""
        listed = self.expectation.ek_sha256
        return {listed} if listed else ({self.enrolled_ek} if self.enrolled_ek else set())

    def hinted_by(self, claim: Claim) -> bool:
        """Whether serial number or a MAC address are this host's."""
        serial = claim.serial is not None and claim.serial == self.expectation.serial
        return serial or not claim.macs.isdisjoint(self.expectation.macs)


@dataclass(frozen=True)
class Admit:
    """It is this host, once it has proven that it holds its EK."""

    host: str


@dataclass(frozen=True)
class Ordered:
    """It is to do something to its disk, once it has proven that it holds its EK. It gets nothing else."""

    host: str


class Wipe(Ordered):
    """It was this host, and is to erase its disk."""


class Repair(Ordered):
    """It is this host, and is to repair its disk."""


class BackUp(Ordered):
    """It is this host, and is to send its data."""


@dataclass(frozen=True)
class Quarantine:
    """Unknown. An admin may say what it is; ``hint`` is the host it says it is."""

    reason: str
    hint: str | None = None


@dataclass(frozen=True)
class Refuse:
    """It is not let in."""

    reason: str
    host: str | None = None


Verdict = Admit | Ordered | Quarantine | Refuse


def judge(claim: Claim, hosts: Sequence[Known], ordered: Ordered | None = None) -> Verdict:
    """Match a machine with the hosts of the site.

    :param ordered: what the machine with this EK is to do. That comes first: whoever the site lists it for, what is on
        its disk is of that host.
    """
    if ordered is not None:
        return ordered
    hinted = [host for host in hosts if host.hinted_by(claim)]
    if len(hinted) > 1:
        names = ", ".join(sorted(host.name for host in hinted))
        return Refuse(f"serial number and MAC addresses are those of several hosts: {names}")
    hint = hinted[0] if hinted else None
    if claim.ek_sha256 is None:
        return _without_tpm(claim, hint)
    for host in hosts:
        if claim.ek_sha256 in host.eks:
            if hint is not None and hint.name != host.name:
                return Refuse(f"the TPM of {host.name} with serial number or MAC address of {hint.name}", host.name)
            return admissible(claim, host) or Admit(host.name)
    if hint is None:
        return Quarantine("no host has this EK, serial number or MAC address")
    if hint.eks:
        return Refuse(f"another TPM with serial number or MAC address of {hint.name}", hint.name)
    if refused := admissible(claim, hint):
        return refused
    if hint.expectation.admit == "serial" and claim.serial == hint.expectation.serial:
        return Admit(hint.name)
    return Quarantine("no EK is listed for the host that it says it is", hint.name)


def _without_tpm(claim: Claim, hint: Known | None) -> Verdict:
    found = "a TPM 1.2 and no 2.0" if claim.tpm_version == "1.2" else "no TPM"
    if hint is None:
        return Quarantine(f"{found}, and no host has this serial number or MAC address")
    if hint.expectation.machine_class != "no_tpm":
        return Refuse(f"{found}, with serial number or MAC address of {hint.name}", hint.name)
    return already(hint) or Quarantine(found, hint.name)


def admissible(claim: Claim, host: Known) -> Refuse | None:
    """Why this machine may not be this host, if so. An approval does not help against it."""
    wanted = host.expectation
    if (wanted.machine_class == "no_tpm") != (claim.ek_sha256 is None):
        return Refuse(f"class {wanted.machine_class} is declared for {host.name}, and the machine is not", host.name)
    if claim.ek_sha256 is not None and host.eks and claim.ek_sha256 not in host.eks:
        return Refuse(f"not the TPM of {host.name}", host.name)
    if wanted.ek_certificate and not claim.certified:
        return Refuse("the EK has no certificate of a known manufacturer", host.name)
    return already(host)


def already(host: Known) -> Refuse | None:
    """Whether it is installed, and is to stay so."""
    if host.installed and not (host.expectation.reinstall or host.expectation.keep):
        return Refuse(f"{host.name} is installed, and reinstall is not set", host.name)
    return None
