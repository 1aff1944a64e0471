# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Whether the certificates of a site fit its plan and last."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils._site.certificate_request import weakness
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.pki import contents
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.pki.files import AUTHORITIES, HOSTS, NTS
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.plan import Plan
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.problems import Problem

CRYPTOGRAPHY_ERROR: ImportError | None = None
try:
    from cryptography import x509
except ImportError as exc:
    CRYPTOGRAPHY_ERROR = exc


def authorities(directory: Path) -> dict[str, bytes]:
    """The certificates of the site's authorities, by name of file; none until it has any."""
    return {path.name: path.read_bytes() for path in sorted((directory / AUTHORITIES).glob("*.pem"))}


def judge(plan: Plan, directory: Path) -> tuple[list[Problem], list[Problem]]:
    """What is wrong with the certificates below ``directory``, and what soon will be.

    A certificate that is not there yet is no error: hosts get theirs when they are enrolled.
    """
    errors: list[Problem] = []
    warnings: list[Problem] = []
    now = datetime.now(UTC)
    soon = now + timedelta(days=plan.site.pki.warn_days)
    for path in (path for part in (AUTHORITIES, HOSTS, NTS) for path in sorted((directory / part).glob("*.pem"))):
        of_host = path.parent.name != AUTHORITIES
        member = plan.members.get(path.stem) if of_host else None
        where = ("pki", "directory") if member is None else ("hosts", member.key)
        try:
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
        except (ValueError, OSError) as exc:
            errors.append(Problem(where, f"{path}: is no certificate ({exc})", "replace it"))
            continue
        day = f"{certificate.not_valid_after_utc:%Y-%m-%d}"
        if certificate.not_valid_after_utc <= now:
            errors.append(Problem(where, f"{path}: ended on {day}", "renew it with playbook site_pki"))
        elif certificate.not_valid_after_utc <= soon:
            warnings.append(Problem(where, f"{path}: ends on {day}", "renew it with playbook site_pki"))
        if weak := weakness(certificate):
            errors.append(Problem(where, f"{path}: {weak}", "issue it anew with playbook site_pki"))
        if member is not None:
            wanted = contents.names(plan, member.name, path.parent.name)
            if missing := sorted(set(wanted) - set(contents.names_in(certificate))):
                problem = f"{path}: does not name {', '.join(missing)}"
                errors.append(Problem(where, problem, "issue it anew with playbook site_pki"))
        elif of_host:
            problem = f"{path}: there is no host {path.stem}"
            errors.append(Problem(where, problem, "revoke it with playbook site_pki"))
    return errors, warnings
