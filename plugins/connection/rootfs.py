# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: rootfs
short_description: Run tasks inside the root tree of an image under construction
version_added: 0.1.0
author: Vauban maintainers (@vauban)
description:
  - Each command runs in namespaces of its own whose root is the product's tree, an overlay of the base tree and
    the layer that collects what tasks change. There is no network and none of the controller's environment.
  - The tree needs no Python. The SDK's interpreter is shown at C(/run/vauban) while a command runs; C(/run) and C(/tmp)
    are not part of the tree, so nothing of this stays in the image.
  - Commands run as root of the tree; C(become) to another user goes through C(runuser), whatever the become method.
  - Asynchronous tasks are refused, since no process outlives its command.
options:
  rootfs_sdk:
    description: The SDK, an image file or an unpacked tree.
    type: path
    required: true
    vars:
      - name: rootfs_sdk
  rootfs_base:
    description: The base tree, which is only read.
    type: path
    required: true
    vars:
      - name: rootfs_base
  rootfs_layer:
    description: Directory that keeps the changes (C(upper)) and what overlayfs and the connection need beside it.
    type: path
    required: true
    vars:
      - name: rootfs_layer
"""

import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

from ansible import constants as C
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.become import BecomeBase
from ansible.plugins.connection import ConnectionBase, ensure_connect

from ansible_collections.vauban.fleet.plugins.module_utils._command import Completed
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import (
    SDK_IN_TREE,
    Bind,
    Layers,
    Sandbox,
    remove_tree,
)

PYTHON_IN_TREE = "/run/vauban/python3"
_LIBRARIES = f"{SDK_IN_TREE}/usr/lib/x86_64-linux-gnu"
# The SDK's interpreter with the SDK's loader and libraries: the tree may hold others, or none.
_PYTHON = f"""#!/bin/sh
export PYTHONHOME={SDK_IN_TREE}/usr PYTHONDONTWRITEBYTECODE=1
exec {SDK_IN_TREE}/usr/lib64/ld-linux-x86-64.so.2 --library-path {_LIBRARIES} --argv0 "$0" \\
    {SDK_IN_TREE}/usr/bin/python3 "$@"
"""


class RunUser(BecomeBase):
    """Changes user with runuser(1), which needs neither a password nor a set-user-id file."""

    name = "runuser"

    def __init__(self, original: BecomeBase) -> None:
        super().__init__()
        self._original = original
        self._load_name = original._load_name  # the executor looks option definitions up by this name

    def set_options(self, task_keys: Any = None, var_options: Any = None, direct: Any = None) -> None:
        """Options belong to the configured plugin."""
        self._original.set_options(task_keys=task_keys, var_options=var_options, direct=direct)

    def get_option(self, option: str, hostvars: Any = None, playcontext: Any = None) -> Any:
        """The option of the become plugin the user configured; no password is ever asked for."""
        return None if option == "become_pass" else self._original.get_option(option, hostvars, playcontext)

    def build_become_command(self, cmd: str, shell: Any) -> str:
        """Wrap ``cmd``; root is what commands run as anyway."""
        user = self.get_option("become_user") or "root"
        if user == "root":
            return cmd
        return f"runuser -u {shlex.quote(user)} -- /bin/sh -c {shlex.quote(cmd)}"


class Connection(ConnectionBase):
    """Enters the tree anew for each command."""

    transport = "vauban.fleet.rootfs"
    has_pipelining = True
    allow_executable = False
    has_tty = False
    _connected = False

    def _connect(self) -> Connection:
        if self._connected:
            return self
        base = Path(self.get_option("rootfs_base"))
        if not (base / "usr").is_dir():
            raise AnsibleConnectionFailure(f"{base}: not a root tree. Remedy: build it with 'vauban.fleet.build'")
        self._layer = Path(self.get_option("rootfs_layer"))
        for name in ("upper", "work", "tmp", "aside", "mounts"):
            (self._layer / name).mkdir(parents=True, exist_ok=True)
        (self._layer / "tmp").chmod(0o1777)
        (self._layer / "upper").chmod(0o755)  # of / in the tree, whatever the umask
        python = self._layer / "aside" / "python3"
        python.write_text(_PYTHON)
        python.chmod(0o755)
        self._sandbox = Sandbox(Path(self.get_option("rootfs_sdk")), self._layer / "mounts")
        self._tree = Layers((base,), self._layer / "upper", self._layer / "work")
        self._connected = True
        return self

    def set_become_plugin(self, plugin: BecomeBase | None) -> None:
        """Use runuser in place of the configured method: no tree under construction has a working sudo."""
        super().set_become_plugin(RunUser(plugin) if plugin is not None else None)

    def is_pipelining_enabled(self, wrap_async: bool = False) -> bool:
        """Modules go through standard input, whatever the configuration: fewer commands, no files in the tree."""
        if wrap_async:
            raise AnsibleError("async is not possible here: no process outlives its command in an image")
        return not C.DEFAULT_KEEP_REMOTE_FILES

    @ensure_connect
    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        """Run a shell command in the tree."""
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        completed = self._run(cmd, in_data)
        if completed.returncode != 0:
            self._require_shell()
        return completed.returncode, completed.stdout_bytes, completed.stderr_bytes

    @ensure_connect
    def put_file(self, in_path: str, out_path: str) -> None:
        """Copy a file from the controller into the tree."""
        super().put_file(in_path, out_path)
        try:
            content = Path(in_path).read_bytes()
        except OSError as exc:
            raise AnsibleError(f"{in_path}: cannot be read: {exc.strerror}") from exc
        completed = self._run(f"cat > {shlex.quote(out_path)}", content)
        if completed.returncode != 0:
            self._require_shell()
            raise AnsibleConnectionFailure(f"{out_path}: cannot be written in the tree: {completed.stderr.strip()}")

    @ensure_connect
    def fetch_file(self, in_path: str, out_path: str) -> None:
        """Copy a file from the tree to the controller."""
        super().fetch_file(in_path, out_path)
        completed = self._run(f"cat {shlex.quote(in_path)}", None)
        if completed.returncode != 0:
            self._require_shell()
            raise AnsibleConnectionFailure(f"{in_path}: cannot be read in the tree: {completed.stderr.strip()}")
        Path(out_path).write_bytes(completed.stdout_bytes)

    def reset(self) -> None:
        """Forget what tasks left in /tmp."""
        self.close()

    def close(self) -> None:
        """Nothing runs between commands; only the transfer directory is emptied."""
        if self._connected:
            with suppress(FleetError, FileNotFoundError):
                # Most tasks leave nothing there, and removing it takes namespaces.
                if any((self._layer / "tmp").iterdir()):
                    remove_tree(self._layer / "tmp")
        self._connected = False

    def _require_shell(self) -> None:
        """A command failed: say so if none would run in this tree. Asking before each would cost as much as most do."""
        probe = self._run("true", None)
        if probe.returncode != 0:
            base = self.get_option("rootfs_base")
            raise AnsibleConnectionFailure(f"{base}: no command runs in this tree: {probe.stderr.strip()}")

    def _run(self, cmd: str, stdin: bytes | None) -> Completed:
        self._display.vvv(f"EXEC {cmd}", host=self.get_option("rootfs_layer"))
        binds = [Bind(self._layer / "aside" / "python3", PYTHON_IN_TREE)]
        # /var/tmp is where Ansible hands files to a user other than root.
        binds += [Bind(self._layer / "tmp", place, writable=True) for place in ("/tmp", "/var/tmp")]
        try:
            return self._sandbox.run(
                ["/bin/sh", "-c", cmd],
                root=self._tree,
                binds=binds,
                privileged=True,
                # Transfers go below HOME: /tmp outlives a command and never reaches the image. SYSTEMD_OFFLINE makes
                # systemctl edit links instead of looking for a running manager (systemctl(1)).
                env={"HOME": "/tmp", "SYSTEMD_OFFLINE": "1"},
                stdin=stdin,
                check=False,
            )
        except FleetError as exc:
            raise AnsibleConnectionFailure(str(exc)) from None
