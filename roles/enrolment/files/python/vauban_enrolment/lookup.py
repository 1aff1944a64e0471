# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""What the database knows of hosts and releases, as the service asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from vauban_enrolment import matching
from vauban_enrolment.documents import Expectation, ReleaseContent
from vauban_enrolment.problems import missing
from vauban_enrolment.storage import BackupOrder, Enrolment, Host, HostMac, Release, RepairOrder, WipeOrder


def expectation_of(host: Host) -> Expectation:
    """As it was put."""
    return Expectation.model_validate(host.expectation)


def find_host(session: Session, name: str) -> Host:
    """A host by its name.

    :raises Problem: 404 there is none.
    """
    host = session.get(Host, name)
    if host is None:
        raise missing()
    return host


def known(host: Host) -> matching.Known:
    """For matching."""
    return matching.Known(host.name, expectation_of(host), host.ek_sha256, host.installed is not None)


def candidates(session: Session, claim: matching.Claim) -> list[matching.Known]:
    """The hosts that anything of the claim points at. There may be thousands of others."""
    pointed: list[ColumnElement[bool]] = [Host.name.in_(select(HostMac.host).where(HostMac.mac.in_(claim.macs)))]
    if claim.serial is not None:
        pointed.append(Host.serial == claim.serial)
    if claim.ek_sha256 is not None:
        pointed += [Host.listed_ek == claim.ek_sha256, Host.ek_sha256 == claim.ek_sha256]
    return [known(host) for host in session.scalars(select(Host).where(or_(*pointed)).order_by(Host.name))]


def ordered(session: Session, claim: matching.Claim, moment: datetime) -> matching.Ordered | None:
    """What the machine with this EK is to do, if there is an order now. Data are saved before they are repaired."""
    if claim.ek_sha256 is None:
        return None
    if (wipe := session.get(WipeOrder, claim.ek_sha256)) is not None:
        return matching.Wipe(wipe.host)
    if (backup := session.get(BackupOrder, claim.ek_sha256)) is not None and backup.expires > moment:
        return matching.BackUp(backup.host)
    if (repair := session.get(RepairOrder, claim.ek_sha256)) is not None and repair.expires > moment:
        return matching.Repair(repair.host)
    return None


def other_release(session: Session, enrolment: Enrolment, host: Host) -> str | None:
    """The installer has to be of the release that the host is to get, and that one known."""
    expectation = expectation_of(host)
    if (expectation.product, expectation.version) != (enrolment.product, enrolment.version):
        return f"{enrolment.product} {enrolment.version} is not what {host.name} is to become"
    return unknown_release(session, enrolment)


def unknown_release(session: Session, enrolment: Enrolment) -> str | None:
    """Why nothing is known that the installer could be compared with, if so."""
    if content_of(session, enrolment) is None:
        return f"release {enrolment.product} {enrolment.version} is not known, or has another manifest"
    return None


def content_of(session: Session, enrolment: Enrolment) -> ReleaseContent | None:
    """What the release of the installer measures, if it is known."""
    release = session.get(Release, (enrolment.product, enrolment.version))
    if release is None:
        return None
    content = ReleaseContent.model_validate(release.content)
    return content if content.manifest_sha256 == enrolment.manifest_sha256 else None


def expected(session: Session, enrolment: Enrolment, when: str) -> Mapping[int, str] | None:
    """The registers that a quote has to have, with their values."""
    content = content_of(session, enrolment)
    return {int(number): value for number, value in getattr(content.pcrs, when).items()} if content else None


def registers(session: Session, enrolment: Enrolment, when: str) -> list[int]:
    """Their numbers."""
    return sorted(expected(session, enrolment, when) or {})
