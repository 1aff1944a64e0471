# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: config_tree
short_description: Lay down a directory of configuration files in one task
version_added: 0.1.0
author: Vauban maintainers (@vauban)
description:
  - Renders the files of a directory on the controller and gives the target exactly these contents and modes, in one
    module call however many files there are. Files ending in C(.j2) are templates; the suffix is dropped.
  - Directories that are missing are made with mode 0755. Everything belongs to the user the task runs as,
    normally root.
  - C({variable}) in the name of a file or directory stands for each element of that list variable. The file is laid
    down once for each element, under the element's C(name), and a template finds the element in C(item).
options:
  src:
    description: Directory on the controller whose files are laid down below O(dest).
    type: path
    required: true
  dest:
    description: Directory on the target.
    type: path
    default: /
  modes:
    description: Shell patterns of destination paths and the mode of the files that match; others get 0644, or 0755 if
      the source is executable.
    type: dict
    default: {}
  purge:
    description: Shell patterns of paths on the target. Files that match one and are not laid down are removed, so that
      what left a list leaves the target too.
    type: list
    elements: str
    default: []
  validate:
    description: Shell patterns of destination paths and the command that must accept a file before any file is
      replaced; C(%s) in it stands for the name of a copy beside the file. Not run in check mode.
    type: dict
    default: {}
    version_added: 0.4.0
  files:
    description: Set by the action plugin.
    type: list
    elements: dict
    default: []
attributes:
  check_mode:
    description: Can run in check_mode and return changed status prediction without modifying the target.
    support: full
  diff_mode:
    description: Will return details on what has changed when in diff mode.
    support: full
"""

EXAMPLES = r"""
- name: Lay down the base configuration
  vauban.fleet.config_tree:
    src: "{{ role_path }}/files/root"
    modes:
      /etc/keys/*: "0600"

- name: Lay down the configuration of a daemon that must accept it
  vauban.fleet.config_tree:
    src: "{{ role_path }}/templates/root"
    validate:
      /etc/dnsmasq.conf: dnsmasq --test --conf-file=%s

# Below the directory lies usr/share/greetings/{greetings}.txt.j2, which says {{ item.text }}.
- name: Lay down one file for each greeting, and remove those of earlier runs
  vauban.fleet.config_tree:
    src: "{{ role_path }}/templates/root"
    purge: [/usr/share/greetings/*.txt]
  vars:
    greetings:
      - {name: morning, text: Good morning}
      - {name: evening, text: Good evening}
"""

RETURN = r"""
paths:
  description: The files that were written or removed, or would be in check mode.
  returned: always
  type: list
  elements: str
  sample: [/usr/lib/os-release]
"""

import base64
import glob
import os
import shlex
from fnmatch import fnmatch
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vauban.fleet.plugins.module_utils._atomic import replacing_file


def _read(path: Path) -> tuple[bytes | None, int, tuple[int, int]]:
    """Content, mode and owner; no content if there is no such file."""
    try:
        status = path.stat()
        return path.read_bytes(), status.st_mode & 0o7777, (status.st_uid, status.st_gid)
    except FileNotFoundError:
        return None, 0, (0, 0)


def _header(path: Path, mode: int, owner: tuple[int, int]) -> str:
    return f"{path} {mode:04o} {owner[0]}:{owner[1]}"


def _validate(module: AnsibleModule, path: Path, content: bytes, mode: int) -> None:
    """Let the program that a file is for read it; ends the module if that refuses."""
    for pattern, command in module.params["validate"].items():
        if not fnmatch(str(path), pattern):
            continue
        if "%s" not in command:
            module.fail_json(msg=f"validate: {pattern}: no %s in {command!r}. Remedy: put it where the file is named")
        path.parent.mkdir(parents=True, exist_ok=True)
        copy = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            copy.touch(mode=0o600, exist_ok=False)
            copy.write_bytes(content)
            copy.chmod(mode)
            argv = [word.replace("%s", str(copy)) for word in shlex.split(command)]
            status, said, complained = module.run_command(argv)
        finally:
            copy.unlink(missing_ok=True)
        if status != 0:
            module.fail_json(msg=f"{path}: refused by '{argv[0]}': {(complained or said).strip()}", rc=status)


def main() -> None:
    """Compare, then write what differs."""
    module = AnsibleModule(
        argument_spec={
            "src": {"type": "path", "required": True},
            "dest": {"type": "path", "default": "/"},
            "modes": {"type": "dict", "default": {}},
            "purge": {"type": "list", "elements": "str", "default": []},
            "validate": {"type": "dict", "default": {}},
            "files": {"type": "list", "elements": "dict", "default": []},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    changed, diff, new = [], [], []
    for item in module.params["files"]:
        path, content, mode = Path(item["path"]), base64.b64decode(item["content"]), int(item["mode"], 8)
        try:
            before, before_mode, before_owner = _read(path)
        except OSError as exc:
            module.fail_json(msg=f"{path}: {exc.strerror}. Remedy: remove what is in the place of this file")
        owner = (os.geteuid(), os.getegid())
        if (before, before_mode, before_owner) == (content, mode, owner):
            continue
        changed.append(str(path))
        diff.append(
            {
                "before": (before or b"").decode("utf-8", "replace"),
                "after": content.decode("utf-8", "replace"),
                "before_header": f"{path} (absent)" if before is None else _header(path, before_mode, before_owner),
                "after_header": _header(path, mode, owner),
            }
        )
        new.append((path, content, mode))
    if not module.check_mode:
        for path, content, mode in new:
            _validate(module, path, content, mode)
        for path, content, mode in new:
            with replacing_file(path, mode=mode) as temporary:
                temporary.write_bytes(content)
    kept = {item["path"] for item in module.params["files"]}
    for name in sorted({name for pattern in module.params["purge"] for name in glob.glob(pattern)} - kept):
        path = Path(name)
        if path.is_dir() and not path.is_symlink():
            continue
        before, mode, owner = _read(path)
        changed.append(name)
        diff.append(
            {
                "before": (before or b"").decode("utf-8", "replace"),
                "after": "",
                "before_header": _header(path, mode, owner),
                "after_header": f"{path} (absent)",
            }
        )
        if not module.check_mode:
            path.unlink()
    module.exit_json(changed=bool(changed), paths=changed, diff=diff)


if __name__ == "__main__":
    main()
