# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils._command import run
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install import hardware, hardware_profile
from ansible_collections.vauban.fleet.plugins.module_utils._install.installation import Installation, Request

MEDIUM = Path("/dev/disk/by-label/VAUBAN_RELEASE")
MOUNT_POINT = Path("/run/medium")
DOWNLOADS = Path("/run/provisioning")
ROOT = Path("/etc/vauban/root.pem")
SERVER = Path("/etc/vauban/enrolment.json")
AUTHORITY = Path("/etc/vauban/authority.pem")
PROFILES = Path("/") / hardware_profile.FILE
REQUEST = "install.json"
REPORT_PORT = Path("/dev/virtio-ports/vauban.report")


def main() -> int:
    """Install this machine, from an attached medium or else over the network. Runs in the installer's initrd."""
    try:
        what, then = _from_medium() if MEDIUM.exists() else _from_network()
    except FleetError as exc:
        _say(f"INSTALLATION FAILED: {exc}")
        return 1
    _say(what)
    run(["systemctl", "--no-block", then])
    return 0


def _from_medium() -> tuple[str, str]:
    """Whoever put the medium in takes it out again: the machine is switched off.

    Which hardware profile the machine is, is only said: it may be one that makes the disk of another.
    """
    MOUNT_POINT.mkdir(parents=True, exist_ok=True)
    run(["mount", "-o", "ro,nodev,nosuid,noexec", MEDIUM, MOUNT_POINT])
    path = MOUNT_POINT / REQUEST
    if not path.is_file():
        raise FleetError("the medium does not say what to install where", where=str(path))
    installation = Installation(MOUNT_POINT, ROOT, Request.parse(path.read_text("utf-8"), REQUEST), _say)
    profiles, dmi = _profiles(), hardware.read_dmi()
    installation.report.hardware_profile = found = hardware_profile.find(profiles, dmi)
    _say(f"hardware profile {found or f'none for {hardware_profile.described(dmi)}'}")
    try:
        done = installation.run()
    finally:
        if REPORT_PORT.exists():
            REPORT_PORT.write_text(installation.report.as_json() + "\n")
    return f"INSTALLED {done.product} {done.version}", "poweroff"


def _from_network() -> tuple[str, str]:
    if not SERVER.exists():
        raise FleetError("no release medium is attached, and this image knows no server", where=str(MEDIUM))
    # Only an image that knows a server has the libraries of Python that this needs.
    from ansible_collections.vauban.fleet.plugins.module_utils._install import boot_medium
    from ansible_collections.vauban.fleet.plugins.module_utils._install.provisioning import Provisioning, Server

    boot_medium.configure_network(_say)
    DOWNLOADS.mkdir(mode=0o700)
    run(["mount", "-t", "tmpfs", "-o", "mode=0700,nodev,nosuid,noexec,size=64m", "tmpfs", DOWNLOADS])
    known = json.loads(SERVER.read_text("utf-8"))
    updates = {name: base64.b64decode(content) for name, content in known["secure_boot_keys"].items()}
    server = Server(known["url"], AUTHORITY, known["addresses"], updates)
    return Provisioning(server, ROOT, _profiles(), DOWNLOADS, _say).run()


def _profiles() -> hardware_profile.Profiles:
    profiles: hardware_profile.Profiles = json.loads(PROFILES.read_text("utf-8"))
    return profiles


def _say(text: str) -> None:
    sys.stdout.write(f"installer: {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
