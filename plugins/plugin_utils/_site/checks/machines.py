# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Installation over the network: whether machines can be told apart, and each is told where to install."""

from __future__ import annotations

from collections.abc import Iterator

from ansible_collections.vauban.fleet.plugins.plugin_utils._site.checks.servers import outside_domain
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.model import Machine
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.plan import Member, Plan
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.problems import Keys, Problem, unknown


def provisioning(plan: Plan) -> Iterator[Problem]:
    """The server has a name of the site; releases are of products that there are."""
    part = plan.site.provisioning
    if part is None:
        return
    yield from outside_domain(plan, part.server, ("provisioning", "server"))
    for product in part.releases:
        if product not in plan.units:
            yield unknown(("provisioning", "releases", product), "product", product, plan.units)


def machines(plan: Plan) -> Iterator[Problem]:
    """A machine is of one host, and says how it is known in a way that the enrolment service takes."""
    seen: dict[tuple[str, str], str] = {}
    interfaces = {
        part.mac: name
        for name, member in plan.members.items()
        for part in member.host.interfaces.values()
        if part.mac is not None
    }
    for name, member in plan.members.items():
        machine = member.host.machine
        if machine is None:
            continue
        path: Keys = ("hosts", member.key, "machine")
        if plan.site.provisioning is None:
            yield Problem(path, "the site says nothing of installation", "add provisioning")
            return
        if machine.disk is None and plan.site.provisioning.disk is None:
            yield Problem(path, "nothing says which disk is installed to", "give disk here or in provisioning")
        yield from _known(machine, path)
        for key, values in (
            ("serial", [machine.serial] if machine.serial else []),
            ("ek_sha256", [machine.ek_sha256] if machine.ek_sha256 else []),
            ("macs", machine.macs),
            ("bmc", ["/".join(filter(None, (machine.bmc.address, machine.bmc.system)))] if machine.bmc else []),
        ):
            for value in values:
                yield from _unique(member, path, key, value, seen)
        for index, mac in enumerate(machine.macs):
            if (other := interfaces.get(mac, name)) != name:
                yield Problem((*path, "macs", index), f"{mac} is that of {other} too", "correct one of them")


def _known(machine: Machine, path: Keys) -> Iterator[Problem]:
    admit = machine.admitted
    if machine.trust == "no_tpm" and (machine.ek_sha256 or machine.ek_certificate or admit != "approval"):
        yield Problem(path, "a machine without TPM is admitted by an approval only", "give class and nothing of a TPM")
    elif machine.trust == "software_tpm" and admit == "serial":
        yield Problem((*path, "admit"), "nobody certifies a software TPM", "choose listed or approval")
    elif admit == "listed" and machine.ek_sha256 is None:
        yield Problem((*path, "admit"), "ek_sha256 is missing", "give it, or choose serial or approval")
    elif admit == "serial" and machine.serial is None:
        yield Problem((*path, "admit"), "serial is missing", "give it, or choose listed or approval")
    elif admit != "listed" and machine.ek_sha256 is not None:
        yield Problem((*path, "ek_sha256"), f"is not looked at with admit: {admit}", "choose listed")


def _unique(member: Member, path: Keys, key: str, value: str, seen: dict[tuple[str, str], str]) -> Iterator[Problem]:
    other = seen.setdefault((key, value), member.name)
    if member.key != member.name:
        yield Problem((*path, key), "a range of hosts cannot share it", "take the host out of the range")
    elif other != member.name:
        yield Problem((*path, key), f"{value} is that of {other} too", "correct one of them")
