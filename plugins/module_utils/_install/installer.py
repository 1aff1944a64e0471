# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import sys
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils._command import run
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install.installation import Installation, Report, Request

MEDIUM = Path("/dev/disk/by-label/VAUBAN_RELEASE")
MOUNT_POINT = Path("/run/medium")
CERTIFICATE = Path("/etc/vauban/release.crt")
REQUEST = "install.json"
REPORT_PORT = Path("/dev/virtio-ports/vauban.report")


def main() -> int:
    """Install from the attached release medium, report, and switch the machine off. Runs in the installer's initrd."""
    report = Report()
    try:
        report = _install()
    except FleetError as exc:
        _say(f"INSTALLATION FAILED: {exc}")
        return 1
    _say(f"INSTALLED {report.product} {report.version}")
    run(["systemctl", "--no-block", "poweroff"])
    return 0


def _install() -> Report:
    if not MEDIUM.exists():
        raise FleetError("no release medium is attached", where=str(MEDIUM))
    MOUNT_POINT.mkdir(parents=True, exist_ok=True)
    run(["mount", "-o", "ro,nodev,nosuid,noexec", MEDIUM, MOUNT_POINT])
    path = MOUNT_POINT / REQUEST
    if not path.is_file():
        raise FleetError("the medium does not say what to install where", where=str(path))
    installation = Installation(MOUNT_POINT, CERTIFICATE, Request.parse(path.read_text("utf-8"), REQUEST), _say)
    try:
        return installation.run()
    finally:
        if REPORT_PORT.exists():
            REPORT_PORT.write_text(installation.report.as_json() + "\n")


def _say(text: str) -> None:
    sys.stdout.write(f"installer: {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
