#!/usr/bin/env python
# Copyright: (c) 2026, the vauban.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each phase of an installation over the network costs one virtual machine: CPU seconds of QEMU.

usage: tests/bench/install.py [RELEASE AUTHORITY]

From power-on by HTTP boot under Secure Boot to the proof after the first boot from the disk, with a provisioning server
beside it whose own work is not in the figures. Root is needed, for the namespaces of the server.

RELEASE    a release with an installer that knows a server, as tests/e2e/conftest.py makes it
           (by default build/gateway/0.1.0-networked)
AUTHORITY  directory of the authority that it believes (by default build/e2e/authority)
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from build import ROOT

sys.path.insert(0, str(ROOT / "build/collections"))
sys.path.insert(0, str(ROOT / "roles/enrolment/files/python"))
sys.path.insert(0, str(ROOT / "tests/support"))

from bare import FAILED, bare_machine, expect, state
from provisioning_server import provisioning_server

from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._install.provisioning import STEPS
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._vm import accel
from ansible_collections.vauban.fleet.plugins.module_utils._vm.machine import Machine

RELEASE, AUTHORITY = ROOT / "build/gateway/0.1.0-networked", ROOT / "build/e2e/authority"
MAC, HOST = "52:54:00:00:02:01", "bench"
TIMEOUT = 900  # seconds
DEFAULT_TARGET = r"Reached target .*multi-user\.target"
# Phases, and what the console says when each has ended.
_ENDS = [*(rf"installer: {step}" for step in STEPS), rf"INSTALLED {HOST}"]
PHASES = {
    "firmware: network boot, signature": r"Linux version",
    "kernel and initrd": r"installer: asking",
    "proof by TPM": rf"installer: this machine becomes {HOST}",
    "download": _ENDS[0],
    **dict(zip(STEPS, _ENDS[1:], strict=True)),
}


def _manifest(release: Path) -> dict[str, Any]:
    if not (release / "manifest.json").exists():
        sys.exit(f"{release}: no release. Remedy: run 'pytest tests/e2e/test_provisioning.py', which makes it")
    return dict(json.loads((release / "manifest.json").read_text()))


def product_keys(release: Path) -> ProductKeys:
    """The keys that a machine of the release's product has in its firmware."""
    return ProductKeys(Path.home() / ".local/share/vauban.fleet/keys" / _manifest(release)["product"])


def installers_of(release: Path) -> list[dict[str, str]]:
    """As ``boot_server_installers``."""
    manifest = _manifest(release)
    return [{"name": "bench", **{key: str(manifest[key]) for key in ("product", "version")}}]


def main() -> int:
    """Install one machine, print a line for each phase."""
    given = sys.argv[1:] or [RELEASE, AUTHORITY]
    release, authority = (Path(word).resolve() for word in given)
    keys, installers = product_keys(release), installers_of(release)
    with tempfile.TemporaryDirectory(prefix="bench-install-") as name:
        directory = Path(name)
        (directory / "mounts").mkdir()
        (directory / "bare").mkdir()
        sandbox = Sandbox((ROOT / "build/sdk/current").resolve(), directory / "mounts")
        accelerator = accel.detect(sandbox, smm=True)
        print(f"accelerator: {accelerator.option}\n{'phase':<45} {'CPU s':>7} {'wall s':>7}")
        where = directory / "server"
        with provisioning_server(where, sandbox=sandbox, installers=installers, authority=authority) as server:
            server.publish(release)
            bare = bare_machine(sandbox, keys, directory / "bare", server.segment, MAC)
            expect(server, release, HOST, bare, MAC, {"serial": "system"})
            with Machine(bare.spec, sandbox, accelerator=accelerator) as machine:
                installing = follow(machine, PHASES, [FAILED])
            (nic,) = bare.spec.nics
            spec = replace(bare.spec, nics=(replace(nic, bootindex=None),))
            start = time.monotonic()
            with Machine(spec, sandbox, accelerator=accelerator) as machine:
                machine.serial.wait_for(DEFAULT_TARGET, timeout=TIMEOUT)
                line("first boot from the disk", machine.cpu_seconds(), time.monotonic() - start)
            line("power-on to the default target", installing + machine.cpu_seconds(), 0)
            print(f"the service says: {state(server, HOST)}")
    return 0


def follow(machine: Machine, phases: Mapping[str, str], fail_on: Sequence[str], timeout: float = TIMEOUT) -> float:
    """Print what each phase has cost; return the CPU seconds of all.

    :param phases: what the console says when each has ended.
    :param timeout: of each phase, seconds.
    """
    before, since = 0.0, time.monotonic()
    for phase, marker in phases.items():
        machine.serial.wait_for(marker, timeout=timeout, fail_on=fail_on)
        used, moment = machine.cpu_seconds(), time.monotonic()
        line(phase, used - before, moment - since)
        before, since = used, moment
    return before


def line(phase: str, cpu: float, wall: float) -> None:
    """Print a line of the table."""
    print(f"{phase:<45} {cpu:>7.1f} {wall:>7.1f}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
