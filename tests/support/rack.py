#!/usr/bin/env python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A rack of bare machines: QEMU in place of hardware, each with a TPM of its own, behind one power controller.

usage: rack.py --sdk SDK --keys DIRECTORY --dest DIRECTORY MACHINES

MACHINES is a file of JSON: by the name of a machine its product, whose Secure Boot keys it has, and its network cards,
of which it boots from the first: ``{"gw1": {"product": "gateway", "cards": [{"segment": "lan", "mac": "..."}]}}``.

When the rack stands, DIRECTORY/rack.json says where its controller answers and what its machines' endorsement keys are.
It stands until it is told to end (SIGTERM), and is gone then, but for the disks and TPMs: started again it goes on with
them. The console of a machine is in DIRECTORY/NAME/serial.log.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "build/collections"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "roles/enrolment/files/python"))

from bare import Bare, bare_machine
from power import controller
from redfish import PASSWORD, USER

from ansible_collections.vauban.fleet.plugins.module_utils._atomic import replacing_file
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._vm import accel, installed
from ansible_collections.vauban.fleet.plugins.module_utils._vm.accel import Accelerator
from ansible_collections.vauban.fleet.plugins.module_utils._vm.machine import Machine
from ansible_collections.vauban.fleet.plugins.module_utils._vm.options import segment_address
from ansible_collections.vauban.fleet.plugins.module_utils._vm.spec import Disk, MachineSpec, SegmentNic, UefiBoot

RACK = "rack.json"
_KNOWN = "ek_sha256"
# What Linux says last when it restarts (kernel/reboot.c); QEMU ends in either case.
_RESTARTS = "reboot: Restarting system"


class Bay:
    """A machine and its power."""

    def __init__(self, spec: MachineSpec, sandbox: Sandbox, accelerator: Accelerator) -> None:
        self._spec, self._sandbox, self._accelerator = spec, sandbox, accelerator
        self._thread: threading.Thread | None = None
        self._machine: Machine | None = None
        self._cut = threading.Event()

    @property
    def on(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self, *, network: bool) -> None:
        if not self.on:
            self._cut.clear()
            self._thread = threading.Thread(target=self._run, args=(network,))
            self._thread.start()

    def stop(self) -> None:
        if self._thread is None:
            return
        self._cut.set()
        while self._thread.is_alive():
            if self._machine is not None:
                self._machine.kill()
            self._thread.join(0.2)

    def _run(self, network: bool) -> None:
        """From power-on until the machine switches itself off, or its power is cut."""
        again = True
        while again and not self._cut.is_set():
            again = False
            machine = Machine(self._boots(network), self._sandbox, accelerator=self._accelerator)
            with suppress(FleetError), machine:
                self._machine = machine
                machine.wait_exit()
                again = _RESTARTS in machine.serial.text[-2000:]
            self._machine, network = None, False

    def _boots(self, network: bool) -> MachineSpec:
        """From the first card, or from what the firmware remembers."""
        first, *others = self._spec.nics
        return replace(self._spec, nics=(replace(first, bootindex=0 if network else None), *others))


def build(sandbox: Sandbox, keys: Path, directory: Path, machines: Mapping[str, Any]) -> dict[str, Bare]:
    """Make the machines that are not there yet.

    :param keys: directory of the keys of products.
    """
    made = {}
    for name, wanted in machines.items():
        cards = [SegmentNic(*segment_address(card["segment"]), mac=card["mac"]) for card in wanted["cards"]]
        made[name] = _old(directory / name, cards) or _new(sandbox, keys / wanted["product"], directory / name, cards)
    return made


def _new(sandbox: Sandbox, keys: Path, directory: Path, cards: Sequence[SegmentNic]) -> Bare:
    directory.mkdir(parents=True)
    first, *others = cards
    segment = (first.group, first.port)
    bare = bare_machine(sandbox, ProductKeys(keys), directory, segment, str(first.mac), others=others)
    (directory / _KNOWN).write_text(str(bare.ek_sha256))
    return bare


def _old(directory: Path, cards: Sequence[SegmentNic]) -> Bare | None:
    """A machine of before, as :func:`bare_machine` makes it."""
    if not (directory / _KNOWN).exists():
        return None
    disk = Disk(directory / installed.DISK, serial="system")
    boot = UefiBoot(directory / installed.VARIABLES, pxe=False)
    spec = MachineSpec("bare", directory, boot, disks=(disk,), nics=tuple(cards), tpm=True)
    return Bare(spec, (directory / _KNOWN).read_text())


def stand(sandbox: Sandbox, directory: Path, machines: Mapping[str, Bare]) -> None:
    """Let the machines be switched on and off until a signal says that it is enough."""
    accelerator = accel.detect(sandbox, smm=True)
    bays = {name: Bay(replace(bare.spec, name=name), sandbox, accelerator) for name, bare in machines.items()}
    enough = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: enough.set())
    with controller(bays, directory) as power:
        told = {
            "url": power.url,
            "authority": str(power.authority),
            "user": USER,
            "password": PASSWORD,
            "machines": {name: bare.ek_sha256 for name, bare in machines.items()},
        }
        with replacing_file(directory / RACK, mode=0o600) as temporary:
            temporary.write_text(json.dumps(told))
        try:
            enough.wait()
        finally:
            for bay in bays.values():
                bay.stop()
            (directory / RACK).unlink()


def main() -> int:
    """Let the rack stand that the command line describes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("sdk", "keys", "dest"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("machines", type=Path)
    arguments = parser.parse_args()
    arguments.dest = arguments.dest.resolve()
    (arguments.dest / "mounts").mkdir(parents=True, exist_ok=True)
    sandbox = Sandbox(arguments.sdk.resolve(), arguments.dest / "mounts")
    described = json.loads(arguments.machines.read_text())
    stand(sandbox, arguments.dest, build(sandbox, arguments.keys, arguments.dest, described))
    return 0


if __name__ == "__main__":
    sys.exit(main())
