# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbooks, run by the Ansible that runs the tests, with the collection of this checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils import _errors

COLLECTIONS = Path(_errors.__file__).parents[5]


def ansible_playbook(directory: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ansible-playbook in a directory; variables of the environment come on top of those of the tests."""
    return subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", *words],
        cwd=directory,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS), "LC_ALL": "C.UTF-8", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def play_in_tree(
    directory: Path, sdk: Path, base: Path, play: dict[str, Any], *options: str, layer: Path, **variables: Any
) -> subprocess.CompletedProcess[str]:
    """Run one play over connection rootfs, with its files in the directory; changes go to the layer."""
    host = {
        "ansible_connection": "vauban.fleet.rootfs",
        "ansible_python_interpreter": "/run/vauban/python3",
        "rootfs_sdk": str(sdk),
        "rootfs_base": str(base),
        "rootfs_layer": str(layer),
        **variables,
    }
    (directory / "hosts.json").write_text(json.dumps({"all": {"hosts": {"product": host}}}))
    (directory / "play.json").write_text(json.dumps([{"hosts": "all", "gather_facts": False, **play}]))
    return ansible_playbook(directory, "-i", "hosts.json", "play.json", *options)
