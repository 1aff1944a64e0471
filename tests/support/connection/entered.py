# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A way for Ansible into the namespaces of a machine that a test has started (booted.py)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
name: entered
short_description: Run tasks in the namespaces of a process
author: Vauban maintainers (@vauban)
version_added: 0.3.0
description: Enters the namespaces and the root of a process of this machine.
options:
  remote_addr:
    description: The process.
    type: str
    vars: [{name: ansible_host}]
"""


class Connection(ConnectionBase):
    """Commands go through nsenter(1), files through the root directory of the process."""

    transport = "entered"
    has_pipelining = True

    def _connect(self) -> Connection:
        self._connected = True
        return self

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        """Run a shell command."""
        process = str(self.get_option("remote_addr"))
        enter = ["nsenter", "--target", process, "--mount", "--net", "--pid", "--ipc", "--uts", "--cgroup", "--root"]
        environment = ["env", "-i", "PATH=/usr/sbin:/usr/bin", "HOME=/root", "LC_ALL=C.UTF-8"]
        command = [*enter, "--wd", "--", *environment, "sh", "-c", cmd]
        done = subprocess.run(command, input=in_data or b"", capture_output=True, check=False)
        return done.returncode, done.stdout, done.stderr

    def put_file(self, in_path: str, out_path: str) -> None:
        """Copy a file to the machine."""
        shutil.copyfile(in_path, self._seen(out_path))

    def fetch_file(self, in_path: str, out_path: str) -> None:
        """Copy a file from the machine."""
        shutil.copyfile(self._seen(in_path), out_path)

    def close(self) -> None:
        """Nothing runs between commands."""

    def _seen(self, path: str) -> Path:
        return Path(f"/proc/{self.get_option('remote_addr')}/root") / path.lstrip("/")
