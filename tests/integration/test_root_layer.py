# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A build begins with the first role that a change reaches, and what comes out is as if it had begun with nothing."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import builds
import playing
import pytest
import yaml
from sdk import SDK

APPLYING = builds.ROOT / "roles/product/tasks"
ROLES = ("first", "second", "third")
# The first replaces a directory of the tree, removes a file, and gives one away: all that an overlay marks specially.
FIRST = [
    {"ansible.builtin.template": {"src": "first.j2", "dest": "/etc/first", "mode": "0640", "group": "daemon"}},
    {"ansible.builtin.shell": "cd /etc; rm -r alternatives issue; mkdir -m 0700 alternatives; ln first linked"},
]
SECOND = [
    {"ansible.builtin.command": "cp /etc/first /etc/second"},
    {
        "ansible.builtin.lineinfile": {"path": "/etc/second", "line": "{{ second_value }}"},
        "notify": "Tell nobody",
    },
]
THIRD = [
    {"ansible.builtin.include_role": {"name": "inner"}},
    {"ansible.builtin.copy": {"content": "{{ third_value }}\n", "dest": "/etc/third", "mode": "0644"}},
]
INNER = [
    {
        "ansible.builtin.copy": {"content": "inner\n", "dest": "/etc/inner", "mode": "0644"},
        "when": "inner_wanted | default(false)",
    }
]
VALUES: dict[str, Any] = {
    "first_value": "{{ shared }}",
    "shared": "one",
    "second_value": "two",
    "third_value": "three",
    "unknown": "nobody names it",
    "product_disk_size": "1G",
}


@dataclass
class Product:
    """Three roles in a directory of their own, applied by the tasks of role product."""

    directory: Path
    base: Path
    values: dict[str, Any] = field(default_factory=lambda: dict(VALUES))

    def write(self, role: str, tasks: list[Mapping[str, Any]], part: str = "tasks") -> None:
        path = self.directory / "roles" / role / part / "main.yml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump([{"name": f"Task {n}", **task} for n, task in enumerate(tasks)]))

    def build(self, *, layer: str = "layer", fails: bool = False, **options: Any) -> tuple[list[str], str, Any]:
        """Build; return the roles that ran, the digest of what came out, and where each file comes from."""
        settings = {
            "product_sdk": str(SDK),
            "__product_tree": {"path": str(self.base)},
            "__product_work": str(self.directory / layer),
            "__product_roles": ROLES,
            "rootfs_sdk": str(SDK),
            "rootfs_base": str(self.base),
            "rootfs_layer": str(self.directory / layer / "layer"),
        }
        inventory = {"all": {"hosts": {"product": {**settings, **self.values, **options}}}}
        (self.directory / "inventory.json").write_text(json.dumps(inventory))
        done = playing.ansible_playbook(
            self.directory, "-i", "inventory.json", "build.yml", ANSIBLE_CALLBACKS_ENABLED="vauban.fleet.origin"
        )
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        printed = [json.loads(base64.b64decode(text)) for text in re.findall('"msg": "([A-Za-z0-9+/=]+)"', done.stdout)]
        if fails:
            return printed[0], done.stdout, None
        roles, (content, files) = printed
        return roles, content, files

    def from_nothing(self) -> tuple[str, Any]:
        """What comes out of a build with all roles."""
        shutil.rmtree(self.directory / "new", ignore_errors=True)
        roles, *outcome = self.build(layer="new")
        assert roles == list(ROLES)
        return outcome[0], outcome[1]


@pytest.fixture
def product(tmp_path: Path, base: Path) -> Product:
    builds.require_tools()
    if os.geteuid() != 0:
        pytest.skip("the files of the tree belong to root")
    made = Product(tmp_path, base)
    for role, tasks in (("first", FIRST), ("second", SECOND), ("third", THIRD), ("inner", INNER)):
        made.write(role, tasks)
    made.write(
        "second", [{"ansible.builtin.command": "touch /etc/handled", "when": "handled | default(false)"}], "handlers"
    )
    handlers = tmp_path / "roles/second/handlers/main.yml"
    handlers.write_text(handlers.read_text().replace("Task 0", "Tell nobody"))
    (tmp_path / "roles/first/templates").mkdir()
    (tmp_path / "roles/first/templates/first.j2").write_text("{{ first_value }}\n")
    arguments = {
        "base": "{{ __product_tree.path }}",
        "sdk": "{{ product_sdk }}",
        "dest": "{{ __product_work }}/layer",
        "roles": "{{ __product_roles }}",
        "from_nothing": "{{ product_keys_kind == 'production' }}",
    }
    tasks = tmp_path / "roles/applying/tasks"
    (tmp_path / "roles/applying/defaults").mkdir(parents=True)
    (tmp_path / "roles/applying/defaults/main.yml").write_text("product_keys_kind: development\n")
    (tasks / "steps").mkdir(parents=True)
    for name in ("configure.yml", "steps/role.yml"):
        shutil.copy(APPLYING / name, tasks / name)
    for state, said in (
        ("opened", "__product_layer.roles"),
        ("closed", "[__product_layer.content, __product_layer.files]"),
    ):
        steps = [
            {"vauban.fleet.root_layer": {"state": state, **arguments}, "register": "__product_layer"},
            {"ansible.builtin.debug": {"msg": f"{{{{ {said} | to_json | b64encode }}}}"}},
        ]
        (tasks / f"{state}.yml").write_text(yaml.safe_dump(steps))

    def play(part: str, **settings: Any) -> dict[str, Any]:
        task = {"ansible.builtin.include_role": {"name": "applying", "tasks_from": part}, **settings.pop("task", {})}
        return {"hosts": "all", "gather_facts": False, "tasks": [task], "vars": settings}

    inside = {"ansible_connection": "vauban.fleet.rootfs", "ansible_python_interpreter": "/run/vauban/python3"}
    changed = {"when": "__product_layer is changed"}
    plays = [play("opened"), play("configure", task=changed, **inside), play("closed")]
    (tmp_path / "build.yml").write_text(yaml.safe_dump(plays))
    return made


def test_build_begins_with_the_first_role_that_a_variable_reaches(product: Product) -> None:
    assert product.build()[0] == list(ROLES)
    assert product.build()[0] == []
    product.values |= {"inner_wanted": True, "second_value": "other"}
    ran, *outcome = product.build()
    assert ran == ["second", "third"]
    assert tuple(outcome) == product.from_nothing()
    upper = product.directory / "layer/layer/upper/etc"
    assert (upper / "inner").exists()
    assert os.getxattr(upper / "alternatives", "trusted.overlay.opaque") == b"y"
    product.values |= {"product_disk_size": "2G", "third_value": "{{ shared }}"}
    assert product.build()[0] == ["third"]
    product.values["shared"] = "other"
    assert product.build()[0] == list(ROLES)


def test_changed_role_runs_again_and_failed_one_on_what_was_before_it(product: Product) -> None:
    product.build()
    product.write("third", [{"ansible.builtin.command": "touch /etc/half"}, {"ansible.builtin.command": "false"}])
    assert product.build(fails=True)[0] == ["third"]
    product.write("third", THIRD)
    product.write("inner", [{"ansible.builtin.command": "touch /etc/inner"}])
    ran, *outcome = product.build()
    assert ran == ["third"]
    assert tuple(outcome) == product.from_nothing()
    files = outcome[1]
    assert files["/etc/inner"] == "role inner: Task 0"
    assert files["/etc/second"] == "role second: Task 1"
    assert "/etc/half" not in files


def test_role_after_one_that_told_the_play_a_fact_never_begins(product: Product) -> None:
    product.write("second", [*SECOND, {"ansible.builtin.set_fact": {"told": "a fact"}}])
    product.build()
    product.values["third_value"] = "other"
    assert product.build()[0] == ["second", "third"]


def test_nothing_is_left_out_after_a_handler_changed_the_tree(product: Product) -> None:
    product.values["handled"] = True
    product.build()
    product.values["third_value"] = "other"
    assert product.build()[0] == list(ROLES)


def test_production_keys_sign_only_what_was_made_from_nothing(product: Product) -> None:
    product.build()
    product.values["product_keys_kind"] = "production"
    assert product.build()[0] == list(ROLES)
    product.values["third_value"] = "other"
    assert product.build()[0] == list(ROLES)
