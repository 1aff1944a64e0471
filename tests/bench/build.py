#!/usr/bin/env python
# Copyright: (c) 2026, the vauban.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a build costs: CPU seconds of the process tree, peak memory, bytes.

usage: tests/bench/build.py [DIRECTORY]

Builds the product gateway in a directory of its own (default build/bench) with the packages already in the store: from
nothing, with nothing changed, with another command line, with other role variables. The disk image is left out: its
cost is that of an emulated machine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml
from cpu import adopt_orphans, cpu_seconds
from memory import Peak

ROOT = Path(__file__).resolve().parents[2]
BUILD = [ROOT / "build/venv/bin/ansible-playbook", "playbooks/build.yml", "-i", "inventories/reference"]
MIB = 1024 * 1024
ROLES = ROOT / "tests/integration/derived/roles"


def greeting(text: str) -> list[str]:
    """Options that add a role of a derived product, with a value of its variable, to those of the gateway."""
    roles = yaml.safe_load((ROOT / "inventories/reference/host_vars/gateway.yml").read_text())["product_roles"]
    return ["-e", json.dumps({"product_roles": [*roles, "kiosk"], "kiosk_greeting": text})]


def measure(directory: Path, *options: str) -> tuple[float, float, int]:
    """Run one build; return wall and CPU seconds of the process tree, and the files it wrote in the release."""
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file()}
    start, used = time.monotonic(), cpu_seconds()
    place = f"fleet_build_dir={directory}"
    command = [*BUILD, "--limit", "gateway", "--skip-tags", "disk_image", "-e", place, *options]
    with (directory / "build.log").open("ab") as log:
        subprocess.run(command, cwd=ROOT, check=True, stdout=log, env={**os.environ, "ANSIBLE_ROLES_PATH": str(ROLES)})
    cpu = cpu_seconds() - used
    after = {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file()}
    del after[directory / "build.log"]
    return time.monotonic() - start, cpu, sum(before.get(path) != changed for path, changed in after.items())


def main() -> None:
    """Measure the four cases, print a table."""
    adopt_orphans()
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build/bench").resolve()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    cases: list[tuple[str, list[str] | None, list[str]]] = [  # what is measured, what is built before, the change
        ("cold", None, []),
        ("nothing changed", None, []),
        ("another command line", [], ["-e", '{"product_kernel_arguments": ["quiet", "lockdown=integrity"]}']),
        ("another role variable", greeting("Please touch"), greeting("Please do not touch")),
        ("one that the initrd uses", [], ["-e", "core_volume_group=other"]),
    ]
    print(f"load average at start: {os.getloadavg()[0]:.1f}")
    print(f"{'case':<24} {'CPU s':>8} {'wall s':>8} {'peak MiB':>9} {'files written':>14}")
    for name, before, options in cases:
        if before is not None:
            measure(directory, *before)
        with Peak() as peak:
            wall, cpu, written = measure(directory, *options)
        print(f"{name:<24} {cpu:>8.1f} {wall:>8.1f} {peak.bytes / MIB:>9.0f} {written:>14}", flush=True)
    release = directory / "gateway/0.1.0"
    total = 0
    for name in ("core.erofs", "gateway_0.1.0.efi", "gateway_0.1.0_installer.efi"):
        size = (release / name).stat().st_size
        packed = subprocess.run(["zstd", "-19", "-T0", "-q", "-c", release / name], capture_output=True, check=True)
        print(f"{name:<32} {size / 1e6:>7.1f} MB, compressed {len(packed.stdout) / 1e6:.1f} MB")
        total += len(packed.stdout) if "installer" not in name else 0
    print(f"full compressed download (core + UKI): {total / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
