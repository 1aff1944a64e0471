# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install import boot_files, disks, state, volumes
from ansible_collections.vauban.fleet.plugins.module_utils._install.release import Release, open_release

_KEYS: Mapping[str, Any] = {
    "disk": dict,
    "esp_size": int,
    "swap_size": int,
    "state_size": (int, type(None)),
    "core_size": int,
}


@dataclass(frozen=True)
class Request:
    """What the machine is to become: which disk, and how much of it for what. Sizes are bytes.

    :param state_size: None takes 60 % of what the rest leaves.
    :param core_size: of each of the volumes for a core; larger than the image, so that later versions fit.
    """

    disk: Mapping[str, Any]
    esp_size: int = 256 * 1024 * 1024
    swap_size: int = 256 * 1024 * 1024
    state_size: int | None = None
    core_size: int = 512 * 1024 * 1024

    @classmethod
    def parse(cls, text: str, where: str) -> Request:
        """Read the JSON form.

        :raises FleetError: names the file and the key.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as exc:
            raise FleetError(f"not JSON: {exc}", where=where) from exc
        if not isinstance(data, dict):
            raise FleetError("the top level must be an object", where=where)
        return cls.of(data, where)

    @classmethod
    def of(cls, data: Mapping[str, Any], where: str) -> Request:
        """Read the form of a mapping.

        :raises FleetError: names the file and the key.
        """
        for key, value in data.items():
            if key not in _KEYS:
                raise FleetError("unknown key", where=f"{where}: {key}", remedy=f"known keys: {', '.join(_KEYS)}")
            if not isinstance(value, _KEYS[key]) or isinstance(value, bool):
                raise FleetError(f"wrong type: {value!r}", where=f"{where}: {key}")
            if isinstance(value, int) and value <= 0:
                raise FleetError("must be a positive number of bytes", where=f"{where}: {key}")
        if "disk" not in data:
            raise FleetError("missing", where=f"{where}: disk", remedy="say which disk to install to")
        return cls(**data)


@dataclass
class Report:
    """What was done, step by step, each with its evidence. It is complete only if ``status`` says ``installed``."""

    status: str = "started"
    product: str = ""
    version: str = ""
    hardware_profile: str | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)
    failure: dict[str, Any] | None = None

    def as_json(self) -> str:
        """For the one who waits for it."""
        return json.dumps(self.__dict__, sort_keys=True)


class Site(Protocol):
    """What a site gives to and takes from a machine that is being installed (``provisioning.py``)."""

    def began(self, step: str) -> None:
        """A step begins."""

    def escrow(self, sealing: Mapping[str, Any]) -> Mapping[str, Any]:
        """Give the recovery key away; evidence: the receipt. Without one the installation ends."""

    def furnish(self, state: Path, core: Path) -> Mapping[str, Any]:
        """Put what is the host's own on its state volume; evidence.

        :param core: device of the core's file system.
        """


class Installation:
    """Installs a release on one disk. Stops at the first failed step.

    :param say: called with one line of text as each step begins.
    :param site: none when a medium is all there is. Then the recovery key is in the report only, encrypted.
    """

    def __init__(
        self,
        directory: Path,
        root: Path,
        request: Request,
        say: Callable[[str], None],
        site: Site | None = None,
    ) -> None:
        self.directory = directory
        self.root = root
        self.request = request
        self.say = say
        self.site = site
        self.report = Report()

    def run(self) -> Report:
        """Do everything; the report tells how far it came.

        :raises FleetError: the step that failed; ``report`` has it too.
        """
        try:
            self._run()
        except FleetError as exc:
            self.report.status = "failed"
            self.report.failure = exc.as_failure()
            raise
        self.report.status = "installed"
        return self.report

    def _run(self) -> None:
        with self._step("verify release") as evidence:
            release = open_release(self.directory, self.root)
            self.report.product, self.report.version = release.product, release.version
            evidence.update(product=release.product, version=release.version)
        with self._step("choose disk") as evidence:
            disk = disks.choose(self.request.disk, disks.list_disks())
            evidence.update(disk=str(disk))
            self._check_size(disk, release)
        self.say(f"everything on {disk} will be erased:")
        for line in disk.contents or ("nothing recognised",):
            self.say(f"  {line}")
        group = release.manifest["volume_group"]
        with self._step("erase disk") as evidence:
            evidence.update(volumes.erase(disk))
        with self._step("partition disk"):
            esp = volumes.partition(disk, esp_size=self.request.esp_size, volume_group=group)
        with self._step("write core") as evidence:
            core = volumes.create_volume(group, f"core_{release.version}", self.request.core_size)
            evidence.update(volumes.write_core(release, core))
        with self._step("make swap volume"):
            volumes.create_volume(group, "swap", self.request.swap_size)
        self._make_state(release, core)
        with self._step("install boot files") as evidence:
            evidence.update(boot_files.install(release, esp))
        with self._step("enter boot loader") as evidence:
            evidence.update(boot_files.enter(disk.path, release.product))

    def _make_state(self, release: Release, core: Path) -> None:
        """The state volume. It is used only when its recovery key is where it belongs."""
        wanted = release.manifest["state"]
        key = state.new_key()
        with self._step("format state"):
            device = volumes.create_volume(release.manifest["volume_group"], "state", self.request.state_size)
            state.format_volume(device, key)
        with self._step("enroll keys") as evidence:
            bound = {"pcrs": wanted["pcrs"], "public_key": wanted["pcr_public_key"]}
            sealing = state.enroll(device, key, **bound, escrow=release.manifest["escrow"])
            evidence.update(sealing)
        if self.site is not None:
            with self._step("escrow recovery key") as evidence:
                evidence.update(self.site.escrow(sealing))
        with state.opened(device, key) as root:
            with self._step("populate state") as evidence:
                evidence.update(state.make_places(root, wanted["places"]))
            if self.site is not None:
                with self._step("furnish state") as evidence:
                    evidence.update(self.site.furnish(root, core))
        with self._step("seal state") as evidence:
            evidence.update({**sealing, **state.seal(device, key)})

    def _check_size(self, disk: disks.Disk, release: Release) -> None:
        wanted = self.request
        core = release.manifest["core"]["size"]
        if core > wanted.core_size:
            raise FleetError(f"the core has {core} bytes, its volume only {wanted.core_size}", where="core_size")
        # Two cores fit from the start: an update must never find that there is no room.
        needed = wanted.esp_size + wanted.swap_size + 2 * wanted.core_size + (wanted.state_size or 64 * 1024 * 1024)
        if disk.size < needed:
            raise FleetError(f"the disk has {disk.size} bytes, {needed} are needed", where=str(disk))

    @contextmanager
    def _step(self, name: str) -> Iterator[dict[str, Any]]:
        self.say(name)
        if self.site is not None:
            self.site.began(name)
        evidence: dict[str, Any] = {}
        started = time.monotonic()
        try:
            yield evidence
        except FleetError as exc:
            self.report.steps.append({"step": name, "status": "failed", "error": str(exc), **evidence})
            raise
        seconds = round(time.monotonic() - started, 1)
        self.report.steps.append({"step": name, "status": "done", "seconds": seconds, "evidence": evidence})
