# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import difflib
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install.release import MANIFEST
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision import configurations, expectations, follow
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision.action import (
    SITE,
    ProvisionAction,
    installed_hosts,
    read_site,
)
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision.expectations import Release
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision.service import Call, Fleet, Service
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.load import LoadedSite
from ansible_collections.vauban.fleet.plugins.plugin_utils._step import sandbox_at

_STORE = "vauban.fleet.configuration_store"


class ActionModule(ProvisionAction):
    """Checks what can be checked before a machine comes, and tells the service of it."""

    SPEC: ClassVar[dict[str, Any]] = {
        **SITE,
        "trees": {"type": "path", "required": True},
        "releases": {"type": "list", "elements": "str", "required": True},
        "sdk": {"type": "path", "required": True},
        "keys": {"type": "path", "required": True},
        "root": {"type": "path", "default": "/srv/vauban"},
        "approve": {"type": "dict", "default": {}},
        "reinstall": {"type": "bool"},
        "keep": {"type": "bool", "default": False},
    }

    def act(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Check all, then tell; a host that the service does not take holds up no other."""
        loaded = read_site(arguments)
        hosts = installed_hosts(loaded, arguments["hosts"])
        if arguments["keep"]:
            expectations.require_listed(loaded.plan, hosts)
        found = self._releases(arguments, loaded, hosts)
        service = self.service(arguments["socket"])
        fleet = service.fleet()
        self._check_served(found.values(), Path(arguments["root"]))
        with tempfile.TemporaryDirectory(prefix="vauban-provision-") as temporary:
            missing, packed = self._publish(arguments, loaded, hosts, Path(temporary))
        before = service.expectations([name for name in hosts if name in fleet.hosts])
        wanted = {}
        for name in hosts:
            earlier = before.get(name, {})
            keep = arguments["keep"] or bool(earlier.get("keep") and not arguments["reinstall"])
            again = earlier.get("reinstall", False) if arguments["reinstall"] is None else arguments["reinstall"]
            release = found[loaded.plan.members[name].host.product]
            wanted[name] = expectations.expectation_of(
                loaded.plan, name, release, packed.get(name), reinstall=again and not keep, keep=keep
            )
        changing = [name for name in hosts if before.get(name) != wanted[name]]
        problems: dict[str, str] = {}
        told = False
        if not self._task.check_mode:
            told = _tell(service, found.values(), {name: wanted[name] for name in changing}, problems)
            approved = _approve(service, arguments["approve"], hosts, problems)
            fleet = service.fleet()
        else:
            approved = sorted(arguments["approve"])
        start = _to_start(fleet, hosts, wanted, problems)
        result = {
            "reason": f"{len(hosts)} hosts: {len(changing)} told anew, {len(start)} to be switched on",
            "changed": bool(missing or told or changing or approved),
            "hosts": hosts,
            "hosts_changed": changing,
            "problems": problems,
            "start": start,
            "past": sorted(follow.ended_now(fleet, hosts, (*follow.ENDED, follow.WIPED))),
            "kept_anew": [name for name in changing if wanted[name]["keep"] and not before.get(name, {}).get("keep")],
            "expected": {name: dict(found[loaded.plan.members[name].host.product].pcrs["installer"]) for name in hosts},
            "releases": {product: release.name for product, release in found.items()},
            "strangers": [follow.stranger(each) for each in fleet.others if each["state"] == follow.QUARANTINED],
        }
        return {**result, "diff": _diff(before, wanted, changing)} if self._task.diff else result

    def _releases(self, arguments: Mapping[str, Any], loaded: LoadedSite, hosts: Sequence[str]) -> dict[str, Release]:
        products = list(dict.fromkeys(loaded.plan.members[name].host.product for name in hosts))
        directories = [Path(self._find_needle("files", str(each))) for each in arguments["releases"]]
        with tempfile.TemporaryDirectory(prefix="vauban-provision-") as temporary:
            sandbox = sandbox_at(arguments["sdk"], Path(temporary))
            known = [expectations.read_release(each, Path(arguments["keys"]), sandbox) for each in directories]
        return expectations.choose(loaded.plan, products, known)

    def _check_served(self, found: Iterable[Release], root: Path) -> None:
        """Whether the server offers just these releases."""
        for release in found:
            path = root / "releases" / release.name / MANIFEST
            said = self.module("ansible.builtin.stat", {"path": str(path), "checksum_algorithm": "sha256"})["stat"]
            if said.get("checksum") != release.manifest_sha256:
                raise FleetError(
                    f"the server offers {'another' if said.get('exists') else 'no'} release {release.name}",
                    where=f"{self.server}: {path}",
                    remedy="add it to boot_server_releases, and run playbook pxe",
                )

    def _publish(
        self, arguments: Mapping[str, Any], loaded: LoadedSite, hosts: Sequence[str], temporary: Path
    ) -> tuple[list[str], dict[str, str]]:
        """Bring the configurations of hosts to the server: those that were missing, and which is whose."""
        plan = loaded.plan
        pki = (loaded.file.parent / plan.site.pki.directory).resolve()
        configurations.check_lists(pki)
        trees, check = Path(arguments["trees"]) / plan.site.site, bool(self._task.check_mode)
        packed = configurations.pack(trees, hosts, pki, temporary, partial=check)
        options = {
            "path": str(Path(arguments["root"]) / expectations.CONFIGURATIONS),
            "wanted": sorted(set(packed.values())),
        }
        missing: list[str] = self.module(_STORE, options)["missing"]
        if missing and not self._task.check_mode:
            file = temporary / "bundle"
            configurations.bundle({name: temporary / name for name in missing}, file)
            shell = self._connection._shell
            if shell.tmpdir is None:
                self._make_tmp_path()  # removed with whatever is in it when the task ends
            arrived = self._transfer_file(str(file), shell.join_path(shell.tmpdir, "configurations"))
            self._fixup_perms2([shell.tmpdir, arrived])
            self.module(_STORE, {**options, "arrived": arrived})
        return missing, packed


def _tell(service: Service, releases: Iterable[Release], wanted: Mapping[str, Any], problems: dict[str, str]) -> bool:
    """Tell of releases and hosts; whether a release was new."""
    new = service.need(Call("PUT", f"/releases/{release.name}", release.content) for release in releases)
    answers = service.ask(Call("PUT", f"/hosts/{name}", each) for name, each in wanted.items())
    for name, answer in zip(wanted, answers, strict=True):
        if answer.fault is not None:
            problems[name] = answer.fault
    return any(each["changed"] for each in new)


def _approve(
    service: Service, approvals: Mapping[str, str], hosts: Sequence[str], problems: dict[str, str]
) -> list[str]:
    """Approve machines. One that was approved as the same host before is passed over."""
    if not approvals:
        return []
    fleet = service.fleet()
    done = {host["enrolment"]["id"]: name for name, host in fleet.hosts.items() if host["enrolment"] is not None}
    approved = []
    for enrolment, name in approvals.items():
        if done.get(enrolment) == name:
            continue
        if name not in hosts:
            raise FleetError(f"{name} is none of the hosts of this run", where="approve", remedy="see --limit")
        (answer,) = service.ask([Call("POST", f"/enrolments/{enrolment}/approve", {"host": name})])
        if answer.fault is not None:
            problems[name] = f"enrolment {enrolment} is not approved: {answer.fault}"
        else:
            approved.append(enrolment)
    return approved


def _to_start(fleet: Fleet, hosts: Sequence[str], wanted: Mapping[str, Any], problems: Mapping[str, str]) -> list[str]:
    """Hosts whose machines have to be switched on: those that are neither installed nor on their way."""
    start = []
    for name in hosts:
        (row,) = follow.rows(fleet, [name], {})
        again = row.state == follow.INSTALLED and wanted[name]["reinstall"]
        if name not in problems and (again or row.state not in (follow.INSTALLED, follow.WIPING, *follow.UNDER_WAY)):
            start.append(name)
    return start


def _diff(before: Mapping[str, Any], after: Mapping[str, Any], changing: Iterable[str]) -> list[dict[str, str]]:
    shown = []
    for name in changing:
        texts = [json.dumps(each.get(name, {}), indent=2, sort_keys=True) for each in (before, after)]
        lines = difflib.unified_diff(texts[0].splitlines(), texts[1].splitlines(), name, name, n=1, lineterm="")
        shown.append({"prepared": "".join(f"{line}\n" for line in lines)})
    return shown
