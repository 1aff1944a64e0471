# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""An installation over the network: from a stranger to a host whose disk is written."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ansible_collections.vauban.fleet.plugins.module_utils._command import run
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install import (
    backing_up,
    boot_files,
    certificates,
    configuration,
    disks,
    first_boot,
    hardware,
    hardware_profile,
    keeping,
    repairing,
    secure_boot,
    state,
    wiping,
)
from ansible_collections.vauban.fleet.plugins.module_utils._install.enrolment import (
    BACKING_UP,
    KEEPING,
    REPAIRING,
    WIPING,
    Enrolment,
)
from ansible_collections.vauban.fleet.plugins.module_utils._install.hardware_profile import Profiles
from ansible_collections.vauban.fleet.plugins.module_utils._install.installation import Installation, Request
from ansible_collections.vauban.fleet.plugins.module_utils._install.release import (
    MANIFEST,
    PARTS,
    SIGNATURE,
    open_release,
    verified_manifest,
)
from ansible_collections.vauban.fleet.plugins.module_utils._install.wire import Wire
from ansible_collections.vauban.fleet.plugins.module_utils._tpm.machine import Tpm

OS_RELEASE = Path("/etc/initrd-release")
_SPARE = 16 * 1024 * 1024  # bytes of the downloads' file system beside them
# What of the whole is done when a step of the installation begins; measured in an emulated machine.
STEPS = {
    "verify release": 20,
    "choose disk": 25,
    "erase disk": 26,
    "partition disk": 28,
    "write core": 32,
    "make swap volume": 45,
    "format state": 47,
    "enroll keys": 65,
    "escrow recovery key": 75,
    "populate state": 78,
    "furnish state": 80,
    "seal state": 88,
    "install boot files": 92,
    "enter boot loader": 97,
}


# The same of a disk that keeps what is on it.
KEEP_STEPS = {
    "find disk": 10,
    "open state": 20,
    "enroll keys": 40,
    "escrow recovery key": 60,
    "furnish state": 70,
    "seal state": 85,
    "enter boot loader": 95,
}
# The same of a disk that is repaired.
REPAIR_STEPS = {
    "find disk": 10,
    "repair header": 15,
    "open state": 20,
    "repair file system": 30,
    "download": 50,
    "repair core": 70,
    "repair boot files": 90,
    "repaired": 100,
}
# The same of a disk that is backed up. How large the backup becomes is known at its end.
BACKUP_STEPS = {"find disk": 5, "open state": 10, "send": 20, "have it kept": 95, "backed up": 100}
_NEWS = 60.0  # seconds between two reports of how much was sent
# The same of a disk that is erased.
WIPE_STEPS = {"wipe": 10, "destroy keys": 20, "discard disk": 40, "clear tpm": 80, "wiped": 100}


@dataclass(frozen=True)
class Server:
    """Whom this image believes.

    :param url: ``https://NAME[:PORT]``.
    :param authority: certificate (PEM) of the authority that certifies it.
    :param addresses: where it is.
    :param updates: keys that firmware in setup mode gets (:func:`secure_boot.enrol`); maybe none.
    """

    url: str
    authority: Path
    addresses: Sequence[str]
    updates: Mapping[str, bytes]


class Provisioning:
    """Installs what the provisioning server says, if the server says it to this machine.

    :param root: certificate of the root below which releases are signed, and its list (PEM).
    :param profiles: the hardware profiles of the release.
    :param directory: on a tmpfs, for its owner only.
    :param say: called with one line of text as something begins.
    """

    def __init__(
        self, server: Server, root: Path, profiles: Profiles, directory: Path, say: Callable[[str], None]
    ) -> None:
        self._server, self._root, self._directory, self._say = server, root, directory, say
        self._profiles = profiles
        self._profile: str | None = None  # that the host is installed with
        self._wire = Wire(server.url, server.authority)
        self._enrolment = Enrolment(self._wire, say)
        self._wanted: Mapping[str, Any] = {}
        self._chains: dict[str, bytes] = {}  # certificates of the host, with those above them
        self._receipt = self._place = ""
        self._tpm: Tpm | None = None
        self._kept = False  # whether the state volume was there before
        self._configuration, self._keys = directory / "configuration.tar.gz", directory / "keys"

    def run(self) -> tuple[str, str]:
        """Enrol, install, report; return what has been done, in a line, and what the machine has to do then.

        :raises FleetError: what went wrong first. If the server still listens, it knows, too.
        """
        release = self._directory / "release"
        release.mkdir()
        self._say(f"asking {self._wire.url}")
        product, version = _own_release()
        self._place = f"/releases/{quote(product)}/{quote(version)}"
        manifest = self._fetch_manifest(release)
        applied = {"product": product, "version": version, "manifest_sha256": _sha256(release / MANIFEST)}
        self._tpm = self._find_tpm()
        self._enrolment.present(applied, hardware.describe(disks.list_disks(), self._profiles), self._tpm)
        try:
            if secure_boot.in_setup_mode() and self._server.updates:
                return self._enrol_keys(), "reboot"
            # Without it the firmware measures more, and the proof would only be refused.
            secure_boot.require()
            proven = self._enrolment.prove()
            if proven == WIPING:
                return self._wipe(manifest["volume_group"]), "poweroff"
            if proven == REPAIRING:
                return self._repair(release, applied, manifest), "reboot"
            if proven == BACKING_UP:
                return self._back_up(applied, manifest), "reboot"
            if proven == KEEPING:
                return self._keep(applied, manifest), "reboot"
            return self._install(release, applied, manifest), "reboot"
        except FleetError as exc:
            with suppress(FleetError):
                self._enrolment.report("failed", 0, _line(str(exc)), exc.as_failure())
            raise

    def began(self, step: str) -> None:
        """Say at the server how far the installation is."""
        self._enrolment.report(step.replace(" ", "_"), STEPS[step], step, {})

    def escrow(self, sealing: Mapping[str, Any]) -> Mapping[str, Any]:
        """Give the recovery key away; the evidence is the receipt.

        The host's certificates come before it: from the first on, the service takes nothing from who lacks its key.
        """
        self._fetch_certificates()
        receipt = self._enrolment.escrow(sealing, self._wanted["escrow"]["recipients"])
        self._receipt = receipt["sha256"]
        return {"receipt": receipt}

    def furnish(self, state: Path, core: Path) -> Mapping[str, Any]:
        """Put what is the host's own on its state volume."""
        mounted = self._directory / "core"
        mounted.mkdir()
        run(["mount", "-o", "ro,nodev,nosuid,noexec", core, mounted])
        try:
            return self._furnish(state, mounted)
        finally:
            run(["umount", mounted])

    def _furnish(self, state: Path, core: Path) -> dict[str, Any]:
        evidence: dict[str, Any] = {"host": self._wanted["host"]}
        if given := self._wanted["configuration"]:
            digest = given["sha256"]
            evidence["configuration"] = configuration.unpack(
                self._configuration, digest, state, core, replace=self._kept
            )
        if self._kept:
            certificates.remove(state, core)
            first_boot.remove(state, core)
        evidence["certificates"] = []
        for wanted in self._wanted["certificates"]:
            name = wanted["name"]
            evidence["certificates"].append(certificates.place(self._keys, name, self._chains[name], state, core))
        first_boot.prepare(
            state,
            core,
            url=self._server.url,
            id=self._enrolment.id,
            token=self._enrolment.token,
            authority=self._server.authority,
            addresses=self._server.addresses,
        )
        return evidence

    def _request_certificates(self) -> None:
        """As early as possible: somebody has to sign them while the disk is written."""
        self._keys.mkdir(mode=0o700)
        for wanted in self._wanted["certificates"]:
            self._enrolment.request(wanted["name"], certificates.make(self._keys, wanted))

    def _fetch_certificates(self) -> None:
        for wanted in self._wanted["certificates"]:
            name = wanted["name"]
            self._chains[name] = self._enrolment.certificate(name)
            if len(self._chains) == 1:
                self._wire.identify(*certificates.shown(self._keys, name, self._chains[name]))

    def _install(self, release: Path, applied: Mapping[str, str], manifest: Mapping[str, Any]) -> str:
        wanted = self._take(self._enrolment.installation(), applied, manifest)
        host = str(wanted["host"])
        request = Request.of({"disk": wanted["disk"], **wanted["sizes"]}, f"installation of {host}")
        self._say(f"this machine becomes {host}")
        self._enrolment.report("download", 5, f"fetching {_name(applied)}", {})
        self._request_certificates()
        self._fetch_parts(release, manifest)
        self._fetch_configuration()
        done = Installation(release, self._root, request, self._say, self).run()
        sealed = next(step["evidence"] for step in done.steps if step["step"] == "seal state")
        self._written(sealed, applied)
        return f"INSTALLED {host}"

    def _take(
        self, wanted: Mapping[str, Any], applied: Mapping[str, str], manifest: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """What the host is to become or to stay, if the release allows that, and is for this machine."""
        host, self._wanted = wanted["host"], wanted
        if wanted["release"] != applied:
            raise FleetError(f"host {host} is to become {_name(wanted['release'])}, and not {_name(applied)}")
        # The server hands keys over and keeps them. Who can read them is what the signer of the release said.
        told, signed = wanted["escrow"], manifest["escrow"]
        if sorted(told["recipients"]) != sorted(signed["recipients"]):
            raise FleetError("the escrow recipients are not those that the release was signed with", where=host)
        if told.get("threshold", 1) != (wants := signed.get("threshold", 1)):
            raise FleetError(f"the release was signed for {wants} of the escrow recipients together", where=host)
        self._profile = hardware_profile.choose(
            self._profiles, hardware.read_dmi(), wanted.get("hardware_profile"), host
        )
        self._say(f"hardware profile {self._profile or 'not judged'}")
        return wanted

    def _written(self, sealed: Mapping[str, Any], applied: Mapping[str, str]) -> None:
        evidence = {
            "receipt": self._receipt,
            "manifest_sha256": applied["manifest_sha256"],
            "hardware_profile": self._profile,
            "tokens": sealed["tokens"],
            "key_slots": sealed["key_slots"],
        }
        self._enrolment.report("written", 100, "restarting from the disk", evidence)

    def _keep(self, applied: Mapping[str, str], manifest: Mapping[str, Any]) -> str:
        """Let the disk of the host open for this TPM, and for no other; what is on it stays.

        The recovery key that there is opens it until another one is in escrow, so power can be cut anywhere.
        """
        if self._tpm is None:
            raise FleetError("there is no TPM that the disk could be sealed to")
        tpm, self._kept = self._tpm, True
        wanted = self._take(self._enrolment.keeping(), applied, manifest)
        host, key, bound = str(wanted["host"]), state.new_key(), manifest["state"]
        self._say(f"this machine is {host} from now on")
        self._request_certificates()
        self._fetch_configuration()
        self._keeping("find disk")
        disk, core, volume = keeping.find(wanted["disk"], manifest)
        self._keeping("open state")
        recovery = keeping.recovery_key(lambda made: self._enrolment.unlock(tpm, made), self._directory)
        old = state.admit_key(volume, recovery, key)
        self._keeping("enroll keys")
        sealing = state.enroll(
            volume,
            key,
            pcrs=bound["pcrs"],
            public_key=bound["pcr_public_key"],
            escrow=manifest["escrow"],
            old=old,
        )
        self._keeping("escrow recovery key")
        self.escrow(sealing)
        self._keeping("furnish state")
        with state.opened(volume, key, new=False) as root:
            self.furnish(root, core)
        self._keeping("seal state")
        sealed = state.seal(volume, key, old)
        self._keeping("enter boot loader")
        boot_files.enter(disk.path, str(manifest["product"]))
        self._written(sealed, applied)
        return f"KEPT {host}"

    def _keeping(self, step: str) -> None:
        self._say(step)
        self._enrolment.report(step.replace(" ", "_"), KEEP_STEPS[step], step, {})

    def _repair(self, release: Path, applied: Mapping[str, str], manifest: Mapping[str, Any]) -> str:
        """Repair what a power cut or a worn disk has damaged. Keys stay as they are, and so does the host.

        The data come first: what starts the machine is of no use without them.
        """
        if self._tpm is None:
            raise FleetError("there is no TPM that the recovery key could be given to")
        tpm, order = self._tpm, self._enrolment.repair()
        host, evidence = str(order["host"]), {"manifest_sha256": applied["manifest_sha256"]}
        self._say(f"this machine is {host}; its disk is to be repaired")
        self._repairing("find disk")
        disk, core, volume = repairing.find(order["disk"], manifest)
        self._repairing("repair header")
        found: dict[str, Any] = {"disk": str(disk), "header": repairing.header(volume)}
        self._repairing("open state")
        recovery = keeping.recovery_key(lambda made: self._enrolment.unlock(tpm, made), self._directory)
        with repairing.unlocked(volume, recovery) as opened:
            self._repairing("repair file system")
            found["file_system"] = repairing.file_system(opened, thorough=bool(order["thorough"]))
        self._repairing("download")
        self._fetch_parts(release, manifest)
        made = open_release(release, self._root)
        self._repairing("repair core")
        found["core"] = repairing.core(made, core)
        self._repairing("repair boot files")
        partition, new = repairing.boot_partition(disk)
        files = boot_files.install(made, partition)
        found["boot"] = {**files, "new_file_system": new, **boot_files.enter(disk.path, made.product)}
        self._enrolment.report("repaired", REPAIR_STEPS["repaired"], repairing.summary(found), {**evidence, **found})
        return f"REPAIRED {host}"

    def _back_up(self, applied: Mapping[str, str], manifest: Mapping[str, Any]) -> str:
        """Send what is on the disk to the server, which cannot read it. Nothing on the disk changes."""
        if self._tpm is None:
            raise FleetError("there is no TPM that the recovery key could be given to")
        tpm, order = self._tpm, self._enrolment.backup()
        host, piece, largest = str(order["host"]), int(order["piece"]), int(order["largest"])
        self._say(f"this machine is {host}; its data are to be backed up")
        self._backing_up("find disk")
        disk, _core, volume = repairing.find(order["disk"], manifest)
        self._backing_up("open state")
        given = keeping.recovery_key(lambda made: self._enrolment.unlock(tpm, made), self._directory)
        key, recipients = backing_up.released(given)
        with repairing.unlocked(volume, key) as opened, backing_up.mounted(opened) as (root, found):
            self._backing_up("send")
            size, sha256 = backing_up.send(root, recipients, self._sender(found["used"]), piece=piece, largest=largest)
        self._backing_up("have it kept")
        receipt = self._enrolment.sent(size, sha256)
        evidence = {
            "disk": str(disk),
            "manifest_sha256": applied["manifest_sha256"],
            "receipt": receipt["sha256"],
            "size": size,
            "recipients": recipients,
            "file_system": found,
        }
        self._enrolment.report("backed_up", BACKUP_STEPS["backed up"], backing_up.summary(size, found), evidence)
        return f"BACKED UP {host}"

    def _sender(self, used: int) -> Callable[[int, bytes], None]:
        """Sends pieces, and says now and then how many.

        :param used: bytes of files, before they are compressed.
        """
        first, last = BACKUP_STEPS["send"], BACKUP_STEPS["have it kept"]
        said = time.monotonic()

        def send(offset: int, piece: bytes) -> None:
            nonlocal said
            self._enrolment.send(offset, piece)
            if (moment := time.monotonic()) - said >= _NEWS:
                said, share = moment, min(1.0, offset / max(used, 1))
                line = f"sent {offset >> 20} MiB, of files of {used >> 20} MiB"
                self._enrolment.report("send", first + int(share * (last - first)), line, {})

        return send

    def _backing_up(self, step: str) -> None:
        self._say(step)
        self._enrolment.report(step.replace(" ", "_"), BACKUP_STEPS[step], step, {})

    def _repairing(self, step: str) -> None:
        self._say(step)
        self._enrolment.report(step.replace(" ", "_"), REPAIR_STEPS[step], step, {})

    def _wipe(self, group: str) -> str:
        """Erase the disk of what was a host's machine. What TPM and firmware hold of it goes, too."""
        order = self._enrolment.wipe()
        host = str(order["host"])
        self._say(f"this machine was {host}; its disk is to be erased")
        disk = wiping.choose(order, group)
        # From here on the service knows which disk it is: when power is cut, nothing on it may say so.
        evidence: dict[str, Any] = {"disk": wiping.identity(disk)}
        self._wiping("wipe", str(disk), evidence)
        self._wiping("destroy keys", "", {})
        evidence["volumes"] = wiping.destroy_keys(disk)
        evidence["boot_entries"] = wiping.leave_firmware(disk)
        self._wiping("discard disk", "", {})
        evidence |= wiping.discard(disk)
        self._wiping("clear tpm", "", {})
        evidence["tpm"] = self._tpm.clear() if self._tpm is not None else {}
        left = "" if evidence["discarded"] else "; it cannot discard: only keys, headers and both ends are overwritten"
        kept = "" if evidence["tpm"].get("cleared") else "; the TPM could not be cleared"
        self._enrolment.report("wiped", WIPE_STEPS["wiped"], f"the disk is erased{left}{kept}", evidence)
        return f"WIPED {host}"

    def _wiping(self, step: str, about: str, evidence: Mapping[str, Any]) -> None:
        line = f"{step}: {about}" if about else step
        self._say(line)
        self._enrolment.report(step.replace(" ", "_"), WIPE_STEPS[step], _line(line), evidence)

    def _enrol_keys(self) -> str:
        """Only of a machine that the site knows. It proves itself after the start that these keys have let happen."""
        secure_boot.enrol(self._server.updates)
        boot_files.repeat()
        line = "the firmware has its keys; starting again from where it came"
        self._enrolment.report("failed", 0, line, {})
        return line

    def _fetch_manifest(self, release: Path) -> Mapping[str, Any]:
        for name in (MANIFEST, SIGNATURE):
            answer = self._wire.ask("GET", f"{self._place}/{name}")
            if answer.status != 200:
                where = f"{self._wire.url}{self._place}"
                raise FleetError(f"the server has no such release ({answer.status})", where=where)
            (release / name).write_bytes(answer.body)
        return verified_manifest(release, self._root)

    def _fetch_parts(self, release: Path, manifest: Mapping[str, Any]) -> None:
        """Fetch what an installation needs, before anything of the disk is touched."""
        size = sum(manifest[part]["size"] for part in PARTS)
        run(["mount", "-o", f"remount,size={size + configuration.LARGEST + _SPARE}", self._directory])
        for part in PARTS:
            entry = manifest[part]
            where = f"{self._place}/{quote(entry['file'])}"
            self._wire.download(where, release / entry["file"], sha256=entry["sha256"], limit=entry["size"])

    def _fetch_configuration(self) -> None:
        if (given := self._wanted["configuration"]) is None:
            return
        path = given["url"].removeprefix(f"{self._wire.url}/")
        if path == given["url"]:
            raise FleetError("the configuration is on another server", where=given["url"])
        self._wire.download(f"/{path}", self._configuration, sha256=given["sha256"], limit=configuration.LARGEST)

    def _find_tpm(self) -> Tpm | None:
        """None where there is none: the site may have declared such a machine, and in any case sees it in its list."""
        directory = self._directory / "tpm"
        directory.mkdir(mode=0o700)
        try:
            return Tpm(directory)
        except FleetError as exc:
            self._say(str(exc))
            return None


def _own_release() -> tuple[str, str]:
    """Product and version that this image was made for (os-release(5))."""
    lines = OS_RELEASE.read_text("utf-8").splitlines()
    values = dict(line.partition("=")[::2] for line in lines if "=" in line)
    return values["IMAGE_ID"].strip('"'), values["IMAGE_VERSION"].strip('"')


def _name(release: Mapping[str, str]) -> str:
    return f"{release['product']} {release['version']} (manifest {release['manifest_sha256'][:12]})"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _line(text: str) -> str:
    return " ".join(text.split())[:300]
