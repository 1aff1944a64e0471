#!/usr/bin/python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_vm
short_description: Start, save, restore, stop and remove a QEMU virtual machine
version_added: 0.1.0
author: Vauban maintainers (@vauban)
description:
  - Runs a virtual machine with the QEMU of the SDK, in a sandbox, without root and without a daemon. It goes on when
    the play has ended; a later task finds it by its O(directory), which holds all its files.
  - Uses KVM if that really executes guest code, else emulation.
  - Returns when the guest can be reached. If the guest does not come up, the error quotes the end of its console.
  - A machine whose controller was killed is found again; what is left of one that did not get far enough is removed.
options:
  name:
    description: Name of the machine; seeds the addresses of its network cards.
    type: str
    required: true
  directory:
    description: Holds all files of the machine. Made with mode 0700 if missing; must hold nothing else.
    type: path
    required: true
  state:
    description:
      - V(started) boots the machine unless it runs with the same options. With other options it is stopped first.
      - V(stopped) presses the power button, and pulls the plug after O(stop_timeout) seconds.
      - V(absent) pulls the plug and removes the directory.
      - V(saved) sees to it that there is a O(snapshot) of memory, disks, TPM and firmware variables. If there is none
        of the same options, the machine is booted unless it runs, and stopped when all is written.
      - V(restored) lets the machine continue from O(snapshot). What it did since is lost, so this always changes.
    type: str
    choices: [started, stopped, absent, saved, restored]
    default: started
  snapshot:
    description: Name of the snapshot, for O(state=saved) and O(state=restored).
    type: str
  replace_snapshot:
    description: For O(state=saved), take the O(snapshot) even if there is one of the same options.
    type: bool
    default: false
  sdk:
    description: The SDK, as an image file or as an unpacked tree. Not needed to stop or remove a machine.
    type: path
  memory:
    description: Memory, as V(512M) or V(2G).
    type: str
    default: 512M
  cpus:
    description:
      - Number of virtual CPUs.
      - With more than one, machines emulated by QEMU 10 now and then stall, because a sleeping CPU misses its timer.
    type: int
    default: 1
  reboots:
    description: Whether the machine starts again when its guest reboots or its kernel panics. Otherwise it ends.
    type: bool
    default: false
  disks:
    description: Disks in the order of C(/dev/vda), C(/dev/vdb) and so on.
    type: list
    elements: dict
    default: []
    suboptions:
      src:
        description: Image or block device that the disk begins as. It is only read; what the guest writes goes to the
          O(directory).
        type: path
      size:
        description: Size of a new, empty disk, in place of O(disks[].src).
        type: str
      format:
        description: Format of O(disks[].src). V(qcow2) is for disks that are read-only.
        type: str
        choices: [raw, qcow2]
        default: raw
      readonly:
        description: Refuse writes.
        type: bool
        default: false
      serial:
        description: Serial number; the guest sees C(/dev/disk/by-id/virtio-SERIAL).
        type: str
  kernel:
    description: Kernel that is booted directly. Without one the O(firmware) boots.
    type: path
  initrd:
    description: Initrd of the O(kernel).
    type: path
  command_line:
    description: Command line of the O(kernel). C(console=ttyS0 panic=-1) unless set.
    type: str
  firmware:
    description: Boot through UEFI firmware. Its variables are made on the first start.
    type: dict
    suboptions:
      secure_boot:
        description: Refuse to boot what the O(firmware.keys) have not signed.
        type: bool
        default: false
      keys:
        description: Key directory of a product (module M(vauban.fleet.product_keys)) whose certificates are enrolled.
          Without one the firmware is in setup mode.
        type: path
  tpm:
    description: Give it a TPM 2.0, manufactured on the first start.
    type: bool
    default: false
  networks:
    description: Network cards, in order.
    type: list
    elements: dict
    default: []
    suboptions:
      kind:
        description:
          - V(user) is a network of the machine's own behind QEMU's address translation, 10.0.2.0/24, with a DHCP
            server.
          - V(segment) is an Ethernet segment which all machines of this host share that name the same
            O(networks[].segment). It is multicast on the loopback interface, so nothing leaves the host.
        type: str
        choices: [user, segment]
        default: user
      segment:
        description: Name of the segment. It holds for the whole host, so let a path be part of it.
        type: str
      mac:
        description: Address of the card. Derived from O(name) and the card's place unless set.
        type: str
      outside:
        description: Let a card of kind V(user) reach what the host reaches.
        type: bool
        default: false
      forwards:
        description: Ports of the host's loopback address that lead to TCP ports of the guest, for kind V(user).
        type: list
        elements: dict
        default: []
        suboptions:
          guest:
            description: Port of the guest.
            type: int
            required: true
          host:
            description: Port of the host. A free one is chosen, and kept as long as it stays free, unless set.
            type: int
  accelerator:
    description: V(auto) takes KVM where it works.
    type: str
    choices: [auto, kvm, tcg]
    default: auto
  wait_for:
    description:
      - What to wait for after a start.
      - V(ssh) is the greeting of an ssh server on O(ssh_port), V(marker) is O(marker) on the serial console.
    type: str
    choices: [ssh, marker, nothing]
    default: ssh
  ssh_port:
    description: Port of the guest's ssh server; one of the O(networks) forwards it.
    type: int
    default: 22
  marker:
    description: Regular expression for O(wait_for=marker). A machine that was restored has printed it long before, and
      is not asked for it again.
    type: str
  failures:
    description: Regular expressions that show on the console when the guest has failed, and end the wait at once,
      beside kernel panics and refusals of the firmware.
    type: list
    elements: str
    default: []
  timeout:
    description: How long to wait, in seconds.
    type: int
    default: 300
  stop_timeout:
    description: How long the guest may take to switch itself off, in seconds.
    type: int
    default: 60
  log_lines:
    description: How many lines of the serial console errors quote.
    type: int
    default: 15
requirements:
  - qemu.qmp (Python library)
  - bubblewrap
attributes:
  check_mode:
    description: Can run in check mode and says what it would do.
    support: full
  diff_mode:
    description: Shows the machine's state and, if it runs with others, the options that differ.
    support: full
  idempotent:
    description: A second run changes nothing.
    support: partial
    details:
      - O(state=restored) goes back to the snapshot each time.
"""

EXAMPLES = r"""
- name: Boot a machine, and wait for its ssh server
  vauban.fleet.qemu_vm:
    name: gateway
    directory: /srv/vm/gateway
    sdk: /srv/build/sdk/current
    memory: 512M
    kernel: /srv/image/vmlinuz
    initrd: /srv/image/initrd
    command_line: console=ttyS0 panic=-1 root=/dev/vda
    disks:
      - {src: /srv/image/root.raw}
    networks:
      - {kind: user, forwards: [{guest: 22}]}
      - {kind: segment, segment: /srv/vm/lan}
  register: gateway

- name: Keep its state
  vauban.fleet.qemu_vm: "{{ same_options | combine({'state': 'saved', 'snapshot': 'booted'}) }}"

- name: Go back to it, in seconds
  vauban.fleet.qemu_vm: "{{ same_options | combine({'state': 'restored', 'snapshot': 'booted'}) }}"

- name: Leave nothing behind
  vauban.fleet.qemu_vm:
    name: gateway
    directory: /srv/vm/gateway
    state: absent
"""

RETURN = r"""
state:
  description: Whether the machine runs now, or would in check mode.
  returned: success
  type: str
  sample: started
pid:
  description: Process number of QEMU.
  returned: when it runs
  type: int
  sample: 4711
started:
  description: When that process started, in clock ticks since the host's boot. Together they name one process for ever.
  returned: when it runs
  type: int
  sample: 83211
ssh_host:
  description: Address of the host that leads to the guest's ssh server.
  returned: when it runs and a network forwards O(ssh_port)
  type: str
  sample: 127.0.0.1
ssh_port:
  description: Port of that address.
  returned: when it runs and a network forwards O(ssh_port)
  type: int
  sample: 40022
ports:
  description: Loopback port by port of the guest.
  returned: when it runs
  type: dict
  sample: {"22": 40022}
accelerator:
  description: What executes guest code (C(name)), and why that was chosen (C(reason)).
  returned: when it runs
  type: dict
  sample: {"name": "tcg", "reason": "there is no /dev/kvm"}
serial_log:
  description: What the guest printed on its serial console, in all boots.
  returned: success
  type: str
  sample: /srv/vm/gateway/serial.log
snapshots:
  description: Names of the saved states.
  returned: success
  type: list
  elements: str
  sample: [booted]
reason:
  description: Why something was done.
  returned: when changed
  type: str
  sample: "changed: memory"
seconds:
  description: How long it took, in seconds.
  returned: success
  type: float
  sample: 31.2
cpu_seconds:
  description: User and system time of QEMU so far, in seconds.
  returned: when it runs
  type: float
  sample: 44.9
failure:
  description: What went wrong (C(message)), the file or option concerned (C(where)) and what to do (C(remedy)).
  returned: failure
  type: dict
  sample:
    message: "'512' is no size like 512M or 2G"
    where: memory
    remedy: null
"""

import os
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._vm.options import LOOPBACK, Options
from ansible_collections.vauban.fleet.plugins.module_utils._vm.resident import Resident
from ansible_collections.vauban.fleet.plugins.module_utils._vm.serial import DEFAULT_FAILURES

_DISK = {
    "src": {"type": "path"},
    "size": {"type": "str"},
    "format": {"type": "str", "choices": ["raw", "qcow2"], "default": "raw"},
    "readonly": {"type": "bool", "default": False},
    "serial": {"type": "str"},
}
_FORWARD = {"guest": {"type": "int", "required": True}, "host": {"type": "int"}}
_NETWORK = {
    "kind": {"type": "str", "choices": ["user", "segment"], "default": "user"},
    "segment": {"type": "str"},
    "mac": {"type": "str"},
    "outside": {"type": "bool", "default": False},
    "forwards": {"type": "list", "elements": "dict", "default": [], "options": _FORWARD},
}
_FIRMWARE = {"secure_boot": {"type": "bool", "default": False}, "keys": {"type": "path", "no_log": False}}
SPEC: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "directory": {"type": "path", "required": True},
    "state": {
        "type": "str",
        "choices": ["started", "stopped", "absent", "saved", "restored"],
        "default": "started",
    },
    "snapshot": {"type": "str"},
    "replace_snapshot": {"type": "bool", "default": False},
    "sdk": {"type": "path"},
    "memory": {"type": "str", "default": "512M"},
    "cpus": {"type": "int", "default": 1},
    "reboots": {"type": "bool", "default": False},
    "disks": {"type": "list", "elements": "dict", "default": [], "options": _DISK},
    "kernel": {"type": "path"},
    "initrd": {"type": "path"},
    "command_line": {"type": "str"},
    "firmware": {"type": "dict", "options": _FIRMWARE},
    "tpm": {"type": "bool", "default": False},
    "networks": {"type": "list", "elements": "dict", "default": [], "options": _NETWORK},
    "accelerator": {"type": "str", "choices": ["auto", "kvm", "tcg"], "default": "auto"},
    "wait_for": {"type": "str", "choices": ["ssh", "marker", "nothing"], "default": "ssh"},
    "ssh_port": {"type": "int", "default": 22},
    "marker": {"type": "str"},
    "failures": {"type": "list", "elements": "str", "default": []},
    "timeout": {"type": "int", "default": 300},
    "stop_timeout": {"type": "int", "default": 60},
    "log_lines": {"type": "int", "default": 15},
}


class Task:
    """One call of the module: what is, what should be, and the way between."""

    def __init__(self, parameters: dict[str, Any], *, check_mode: bool) -> None:
        self.parameters = parameters
        self.check_mode = check_mode
        self.retried = ""
        directory = Path(parameters["directory"])
        sandbox = Sandbox(Path(parameters["sdk"]), directory / "mounts") if parameters["sdk"] else None
        self.resident = Resident(directory, sandbox, lines=parameters["log_lines"])
        self.options = Options.parse(parameters) if parameters["state"] in ("started", "saved", "restored") else None

    def run(self) -> dict[str, Any]:
        """Bring the machine to the state asked for."""
        state = self.parameters["state"]
        begun = time.monotonic()
        makes = state in ("started", "saved", "restored") and not self.check_mode
        with self.resident.locked(make=makes):
            if makes:
                (self.resident.directory / "mounts").mkdir(exist_ok=True)
            before = self._state()
            reason, after = getattr(self, f"_{state}")(before)
            result = {"changed": reason is not None, **self._facts(after)}
            if reason is not None:
                result["reason"] = reason
                result["diff"] = {"before": {"state": before}, "after": {"state": after, "reason": reason}}
        result["seconds"] = round(time.monotonic() - begun, 1)
        return result

    def _state(self) -> str:
        if self.resident.process() is not None:
            return "started"
        return "stopped" if self.resident.directory.is_dir() and self.resident.record() else "absent"

    def _started(self, before: str) -> tuple[str | None, str]:
        if self.options is None:
            raise AssertionError("a state that needs no options came here")
        changed = self.resident.differs(self.options)
        if before == "started" and not changed:
            reason = None
        elif before == "started":
            reason = f"changed: {', '.join(changed)}"
        else:
            reason = f"the machine was {before}"
        if self.check_mode:
            return reason, "started"
        if reason is None:
            self.resident.proceed()
        else:
            if before == "started":
                self.resident.stop(self.parameters["stop_timeout"])
            self.resident.start(self.options)
        try:
            self._wait()
        except FleetError:
            if not self.resident.emulator_failed():
                raise
            self.retried = self.resident.emulator_log()
            self.resident.start(self.options)
            self._wait()
        return reason, "started"

    def _stopped(self, before: str) -> tuple[str | None, str]:
        after = "absent" if before == "absent" else "stopped"
        if not self.check_mode and self.resident.directory.is_dir():
            obeyed = self.resident.stop(self.parameters["stop_timeout"])
            if before == "started" and not obeyed:
                return f"the machine was started, and did not obey within {self.parameters['stop_timeout']} s", after
        return ("the machine was started" if before == "started" else None), after

    def _absent(self, before: str) -> tuple[str | None, str]:
        if not self.resident.directory.is_dir():
            return None, "absent"
        if not self.check_mode:
            self.resident.remove()
        return f"the machine was {before}", "absent"

    def _saved(self, before: str) -> tuple[str | None, str]:
        if self.options is None:
            raise AssertionError("a state that needs no options came here")
        name = self.parameters["snapshot"]
        if self.parameters["replace_snapshot"]:
            reason = f"'{name}' was to be taken anew"
        elif name not in self.resident.snapshots():
            reason = f"there was no snapshot '{name}'"
        elif changed := self.resident.stale(name, self.options):
            reason = f"changed since the snapshot: {', '.join(changed)}"
        else:
            return None, before
        if not self.check_mode:
            self._started(before)
            self.resident.save(name)
        return reason, "stopped"

    def _restored(self, _before: str) -> tuple[str | None, str]:
        if self.options is None:
            raise AssertionError("a state that needs no options came here")
        if not self.check_mode:
            self.resident.restore(self.parameters["snapshot"], self.options)
            self._wait()
        return f"the machine was set back to '{self.parameters['snapshot']}'", "started"

    def _wait(self) -> None:
        parameters = self.parameters
        failures = (*DEFAULT_FAILURES, *parameters["failures"])
        try:
            if parameters["wait_for"] == "ssh":
                self.resident.wait_for_ssh(parameters["ssh_port"], parameters["timeout"], failures)
            elif parameters["wait_for"] == "marker" and not self.resident.restored():
                self.resident.wait_for_marker(parameters["marker"], parameters["timeout"], failures)
        except FleetError as exc:
            printed = self.resident.emulator_log() if self.resident.process() is None else ""
            self.resident.stop(0)  # its logs stay, for whoever reads the error
            if printed:
                raise FleetError(f"{exc.message}\nQEMU printed: {printed}", where=exc.where, remedy=exc.remedy) from exc
            raise

    def _facts(self, state: str) -> dict[str, Any]:
        resident = self.resident
        facts: dict[str, Any] = {
            "state": state,
            "serial_log": str(resident.directory / "serial.log"),
            "snapshots": resident.snapshots(),
        }
        record, process = resident.record(), resident.process()
        if record is None or process is None:
            return facts
        facts |= {"pid": process.pid, "started": process.started, "ports": record.ports}
        facts["accelerator"] = {name: record.accelerator[name] for name in ("name", "reason")}
        facts["cpu_seconds"] = round(process.cpu, 1)
        port = resident.port(self.parameters["ssh_port"])
        return {**facts, "ssh_host": LOOPBACK, "ssh_port": port} if port else facts


def main() -> None:
    """Look after one machine."""
    module = AnsibleModule(
        argument_spec=SPEC,
        required_if=[
            ("state", "started", ("sdk",)),
            ("state", "saved", ("sdk", "snapshot")),
            ("state", "restored", ("sdk", "snapshot")),
            ("wait_for", "marker", ("marker",)),
        ],
        supports_check_mode=True,
    )
    os.umask(0o077)
    try:
        task = Task(module.params, check_mode=module.check_mode)
        result = task.run()
        if task.retried:
            module.warn(f"{module.params['name']}: QEMU failed and was started again: {task.retried}")
    except FleetError as exc:
        module.fail_json(msg=str(exc), failure=exc.as_failure())
    module.exit_json(**result)


if __name__ == "__main__":
    main()
