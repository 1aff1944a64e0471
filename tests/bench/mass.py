#!/usr/bin/env python
# Copyright: (c) 2026, the vauban.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bare virtual machines switched on at the same moment: time until all run, bytes and CPU time of the server.

usage: tests/bench/mass.py [NUMBER...]

For each NUMBER (by default 1, 2, 4) a new provisioning server, and so many machines with empty disks, TPMs and Secure
Boot. From power-on by HTTP boot, through the installation, to the default target of the first boot from the disk; the
last proof is not made, since a machine without the configuration of a site reaches nobody. Machines share the
processors with the server and with each other; under emulation the time is theirs, not the server's. Real firmware,
installers and TPMs, in place of those that tests/bench/provision.py simulates.

The release is that of tests/bench/install.py. Root is needed, for the namespaces of the server.
"""

from __future__ import annotations

import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from build import ROOT

sys.path.insert(0, str(ROOT / "build/collections"))
sys.path.insert(0, str(ROOT / "roles/enrolment/files/python"))
sys.path.insert(0, str(ROOT / "tests/support"))

from bare import FAILED, Bare, bare_machine, expect, state
from install import AUTHORITY, DEFAULT_TARGET, RELEASE, TIMEOUT, installers_of, product_keys
from provision import UNITS, services_cpu
from provisioning_server import ProvisioningServer, provisioning_server

from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._vm import accel
from ansible_collections.vauban.fleet.plugins.module_utils._vm.accel import Accelerator
from ansible_collections.vauban.fleet.plugins.module_utils._vm.machine import Machine

NUMBERS = (1, 2, 4)


def install(server: ProvisioningServer, host: str, bare: Bare, sandbox: Sandbox, accelerator: Accelerator) -> float:
    """Switch the machine on, and on again when it is installed; CPU seconds of QEMU."""
    with Machine(bare.spec, sandbox, accelerator=accelerator) as machine:
        machine.serial.wait_for(f"INSTALLED {host}", timeout=TIMEOUT, fail_on=[FAILED])
        machine.wait_exit(TIMEOUT)
    with Machine(bare.from_disk, sandbox, accelerator=accelerator) as booted:
        booted.serial.wait_for(DEFAULT_TARGET, timeout=TIMEOUT)
        reached = state(server, host)[0]
        if reached != "written":
            sys.exit(f"{host} is {reached}. Remedy: read {booted.serial.log}")
        return machine.cpu_seconds() + booted.cpu_seconds()


def sent(server: ProvisioningServer) -> int:
    """Bytes that the server has sent to its machines' network, headers included."""
    return int(server.machine("cat", "/sys/class/net/lan/statistics/tx_bytes"))


def measure(number: int, directory: Path, sandbox: Sandbox) -> None:
    """Install so many at once, print a line."""
    accelerator = accel.detect(sandbox, smm=True)
    where = directory / f"server{number}"
    with provisioning_server(where, sandbox=sandbox, installers=installers_of(RELEASE), authority=AUTHORITY) as server:
        server.publish(RELEASE)
        machines = {}
        for each in range(number):
            host, mac = f"bench{each}", f"52:54:00:00:02:{each:02x}"
            (directory / f"{number}-{host}").mkdir()
            machines[host] = bare_machine(
                sandbox, product_keys(RELEASE), directory / f"{number}-{host}", server.segment, mac
            )
            expect(server, RELEASE, host, machines[host], mac, {"serial": "system"})
        before, bytes_before, begin = services_cpu(server.machine), sent(server), time.monotonic()
        with ThreadPoolExecutor(number) as pool:
            jobs = [pool.submit(install, server, *each, sandbox, accelerator) for each in machines.items()]
            emulated = sum(job.result() for job in jobs)
        wall, after = time.monotonic() - begin, services_cpu(server.machine)
        used = sum(after[unit] - before[unit] for unit in UNITS)
        megabytes = (sent(server) - bytes_before) / 1e6
    used, emulated, megabytes = (total / number for total in (used, emulated, megabytes))
    print(f"{number:>8} {wall:>7.0f} {megabytes:>11.1f} {used:>13.2f} {emulated:>11.1f}", flush=True)


def main() -> None:
    """Print a line for each number of machines."""
    numbers = [int(word) for word in sys.argv[1:]] or NUMBERS
    with tempfile.TemporaryDirectory(prefix="bench-mass-") as name:
        directory = Path(name)
        (directory / "mounts").mkdir()
        sandbox = Sandbox((ROOT / "build/sdk/current").resolve(), directory / "mounts")
        print("machines  wall s     MB each  server CPU s  QEMU CPU s")
        for number in numbers:
            measure(number, directory, sandbox)


if __name__ == "__main__":
    main()
