#!/usr/bin/env python
# Copyright: (c) 2026, the vauban.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases of product gateway for tests/bench/deltas.py, which differ in one thing each; prints the command to measure.

usage: tests/bench/delta_releases.py BEFORE [DIRECTORY]

BEFORE     an older lock file: what an archive had before an update. Its packages have to be in the store of assets, or
           still in the archive.
DIRECTORY  for the releases (default build/bench/deltas).

The kernel is what comes from source package linux-signed-amd64; all else that differs between the lock files counts as
the other packages. Every release has a version of its own, as updates have.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from build import BUILD, ROOT

AFTER = ROOT / "files/lock/trixie.lock.json"
KERNEL = "linux-signed-amd64="
SETTING = ["-e", json.dumps({"logging_journal_size": "192M"})]
Packages = list[dict[str, Any]]


def of_kernel(package: dict[str, Any]) -> bool:
    """Whether it is made with the kernel."""
    return str(package["source"]).startswith(KERNEL)


def mixed(directory: Path, name: str, kernel: Packages, others: Packages) -> list[str]:
    """Write a lock file with the kernel of one and the rest of another; the option that builds from it."""
    lock = json.loads(AFTER.read_text())
    lock["packages"] = [each for each in kernel if of_kernel(each)] + [each for each in others if not of_kernel(each)]
    lock["packages"].sort(key=lambda package: str(package["name"]))
    path = directory / f"{name}.lock.json"
    path.write_text(json.dumps(lock))
    return ["-e", f"fleet_lock_file={path}"]


def main() -> None:
    """Build all, print how to compare them."""
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(__doc__)
    directory = Path(sys.argv[2] if len(sys.argv) > 2 else ROOT / "build/bench/deltas").resolve()
    directory.mkdir(parents=True, exist_ok=True)
    old, new = (json.loads(path.read_text())["packages"] for path in (Path(sys.argv[1]), AFTER))
    cases = {
        "0.1.0": mixed(directory, "before", old, old),
        "0.1.1": mixed(directory, "packages", old, new),
        "0.1.2": mixed(directory, "kernel", new, old),
        "0.1.3": mixed(directory, "both", new, new),
        "0.1.4": [*mixed(directory, "both", new, new), *SETTING],
    }
    for version, options in cases.items():
        place = ["-e", f"fleet_build_dir={directory}", "-e", f"product_version={version}"]
        with (directory / "build.log").open("ab") as log:
            command = [*BUILD, "--limit", "gateway", "--skip-tags", "disk_image", *place, *options]
            subprocess.run(command, cwd=ROOT, check=True, stdout=log)
    releases = {version: directory / "gateway" / version for version in cases}
    pairs = [("0.1.0", "0.1.1"), ("0.1.0", "0.1.2"), ("0.1.0", "0.1.3"), ("0.1.3", "0.1.4")]
    print("tests/bench/deltas.py", *(releases[version] for pair in pairs for version in pair))


if __name__ == "__main__":
    main()
