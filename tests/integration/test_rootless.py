# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds by an ordinary user with subordinate ids, whom the tests make and remove."""

from __future__ import annotations

import json
import subprocess

from builds import Built, Place, User

# A service writes below a directory that only its own user may enter: a subordinate id on the machine that builds.
CLOSED = """
- hosts: product
  gather_facts: false
  tasks:
    - ansible.builtin.file:
        {path: /etc/closed, state: directory, mode: "0700", owner: systemd-network, group: systemd-network}
    - ansible.builtin.copy:
        {content: secret, dest: /etc/closed/file, mode: "0600", owner: systemd-network, group: systemd-network}
"""
REMOVE = (
    "from pathlib import Path\n"
    "import sys\n"
    "from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import remove_tree\n"
    "remove_tree(Path(sys.argv[1]))\n"
)
# A kernel that finds no root file system waits for ever.
MACHINE = """
- hosts: localhost
  gather_facts: false
  vars:
    machine:
      name: guest
      directory: "{{ place }}/guest"
      sdk: "{{ sdk }}"
      memory: 256M
      kernel: "{{ kernel }}"
      command_line: console=ttyS0 panic=0 no_timer_check
      tpm: true
      disks: [{size: 16M}]
      networks: [{kind: user, forwards: [{guest: 22}]}]
      wait_for: marker
      marker: Linux version
      snapshot: booted
  tasks:
    - vauban.fleet.qemu_vm: "{{ machine | combine({'state': item}) }}"
      loop: [started, started, saved, restored, absent, absent]
      register: done
    - ansible.builtin.debug:
        msg: "changed={{ done.results | map(attribute='changed') | join(',') }}"
"""


def test_user_without_subordinate_ids_is_told_what_to_type(user: User, user_place: Place) -> None:
    user.grant(add=False)
    try:
        done = user_place.play("build", fleet_build_dir=str(user_place.root / "empty"))
    finally:
        user.grant(add=True)
    printed = done.stdout + done.stderr
    assert done.returncode != 0
    assert printed.count("Remedy:") == 1, printed
    assert f"/etc/subuid: user {user.name} has no range of 65536 subordinate ids" in printed
    assert "sudo usermod --add-subuids " in printed
    assert "Traceback" not in printed


def test_image_is_bit_identical_to_that_of_root(reference: Built, rootless: Built) -> None:
    """What differs, if anything does: test_reproducible.py."""
    assert rootless.digests() == reference.digests()


def test_second_build_makes_nothing(rootless: Built, user_place: Place) -> None:
    assert "made:" not in user_place.built().printed


def test_directories_that_only_users_of_the_image_may_enter(rootless: Built, user: User, user_place: Place) -> None:
    """Files there are recorded, and the layer can be removed."""
    layer = user_place.root / "layer"
    host = {
        "ansible_connection": "vauban.fleet.rootfs",
        "ansible_python_interpreter": "/run/vauban/python3",
        "rootfs_sdk": str(user_place.build / "sdk/current"),
        "rootfs_base": str(next(user_place.build.glob("trees/*/root"))),
        "rootfs_layer": str(layer),
    }
    inventory, playbook = user_place.root / "closed.json", user_place.root / "closed.yml"
    inventory.write_text(json.dumps({"all": {"hosts": {"product": host}}}))
    playbook.write_text(CLOSED)
    played = user_place.run(user_place.python, "-m", "ansible", "playbook", "-i", str(inventory), str(playbook))
    assert played.returncode == 0, played.stdout + played.stderr
    assert (layer / "upper/etc/closed").stat().st_uid in range(user.ids[0], user.ids[1] + 1)
    recorded = [json.loads(line)["paths"] for line in (layer / "record.jsonl").read_text().splitlines()]
    assert recorded == [[], ["/etc/closed/file"]]
    removed = user_place.run(
        "env", f"PYTHONPATH={user_place.root / 'collections'}", user_place.python, "-c", REMOVE, str(layer)
    )
    assert removed.returncode == 0, removed.stderr
    assert not layer.exists()


def test_virtual_machine_of_an_ordinary_user(rootless: Built, user: User, user_place: Place) -> None:
    """It starts, is saved, goes on, and leaves nothing behind."""
    (kernel,) = user_place.build.glob("*/work/*/vmlinuz")
    playbook = user_place.root / "machine.yml"
    playbook.write_text(MACHINE)
    paths = {"place": user_place.root, "sdk": user_place.build / "sdk/current", "kernel": kernel}
    extra = json.dumps({name: str(path) for name, path in paths.items()})
    played = user_place.run(user_place.python, "-m", "ansible", "playbook", "-e", extra, str(playbook))
    assert played.returncode == 0, played.stdout + played.stderr
    assert "changed=True,False,True,True,True,False" in played.stdout
    assert not (user_place.root / "guest").exists()
    assert [line for line in _processes(user) if not line.startswith("Z")] == []


def _processes(user: User) -> list[str]:
    """State and command line of each; what init has not reaped yet has the state Z."""
    listed = ["ps", "--user", user.name, "--format", "stat=,args="]
    return subprocess.run(listed, capture_output=True, text=True, check=False).stdout.splitlines()
