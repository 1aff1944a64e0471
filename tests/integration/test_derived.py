# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The example of docs/derive.md: a product made outside the collection, with the collection installed and unchanged."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import textwrap
from pathlib import Path
from typing import NamedTuple

import builds
import pytest
from builds import Built, Place

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._image import lock
from ansible_collections.vauban.fleet.plugins.module_utils._image.stage import result_of

DERIVED = Path(__file__).parent / "derived"
NAME, VERSION = "museum_kiosk", "2.5"
# What cannot be had when there is no network to lock against.
UNREACHABLE = ("apt could not fetch the package indexes", "apt on this machine knows no mirror")


class Project(NamedTuple):
    """The example in a directory of its own, and the place where the collection is installed."""

    directory: Path
    place: Place

    def play(self, playbook: str, *options: str) -> subprocess.CompletedProcess[str]:
        """What docs/derive.md says to type, with this machine's assets."""
        words = ["-m", "ansible", "playbook", "-i", "inventory", f"vauban.fleet.{playbook}", *options]
        assets = json.dumps({"fleet_assets_dir": str(builds.ASSETS)})
        return self.place.run(self.place.python, *words, "-e", assets, cwd=self.directory)


@pytest.fixture(scope="module")
def project(reference: Built, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The reference serves only as a source of the SDK, if the archive has not changed since it was locked."""
    root = tmp_path_factory.mktemp("derived")
    place = Place.below(root, environment={"ANSIBLE_STDOUT_CALLBACK": "vauban.fleet.progress"})
    source = Place.below(root / "source")
    builds.copy_checkout(source)
    galaxy = [place.python, "-m", "ansible", "galaxy", "collection"]
    packed = place.run(*galaxy, "build", "--output-path", str(root), cwd=source.checkout)
    assert packed.returncode == 0, packed.stderr
    archive = next(root.glob("vauban-fleet-*.tar.gz"))
    into = ("-p", str(root / "collections"), str(archive))
    installed = place.run(*galaxy, "install", "--offline", "--no-deps", *into, cwd=root)
    assert installed.returncode == 0, installed.stderr
    shutil.copytree(DERIVED, root / "project")
    for name in ("sdk", "trees"):
        (root / "project/build").mkdir(exist_ok=True)
        (root / "project/build" / name).symlink_to(builds.ROOT / "build" / name)
    return Project(root / "project", place)


@pytest.fixture(scope="module")
def locked(project: Project) -> lock.Lock:
    done = project.play("lock")
    if done.returncode != 0 and any(words in done.stdout + done.stderr for words in UNREACHABLE):
        pytest.skip("no mirror can be reached to lock against")
    assert done.returncode == 0, done.stdout + done.stderr
    return lock.read(project.directory / "lock.json")


@pytest.fixture(scope="module")
def built(project: Project, locked: lock.Lock) -> Built:
    before = _digest.of_tree(project.place.checkout)
    done = project.play("build", "--skip-tags", "disk_image")
    assert done.returncode == 0, done.stdout + done.stderr
    assert _digest.of_tree(project.place.checkout) == before
    return Built(project.directory / "build" / NAME, done.stdout)


@pytest.fixture(scope="module")
def tree(built: Built, project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    sdk = project.directory / "build/sdk/current"
    return builds.extract(sdk, built.release / "core.erofs", tmp_path_factory.mktemp("core"))


def test_documentation_shows_the_example_as_it_is() -> None:
    """Each indented block below a heading with a file's name is that file, comments left out."""
    sections = (builds.ROOT / "docs/derive.md").read_text().split("\n## ")[1:]
    shown = set()
    for section in sections:
        heading, _newline, text = section.partition("\n")
        names = re.findall("`([a-z_./]+)`", heading) + re.findall("`([a-z_/]+/builders.yml)`", text)
        blocks = [textwrap.dedent(block).strip() for block in re.findall(r"(?:^ {4}.*\n|^\n)+", text, re.MULTILINE)]
        for name, block in zip(names, [block for block in blocks if block], strict=False):
            lines = (DERIVED / name).read_text().splitlines()
            assert block.splitlines() == [line for line in lines if line != "---" and not line.startswith("#")], name
            shown.add(name)
    files = {str(path.relative_to(DERIVED)) for path in DERIVED.rglob("*") if path.is_file()}
    assert files - shown == {"roles/kiosk/meta/argument_specs.yml"}


def test_own_lock_file_has_the_own_package_set_and_packages(locked: lock.Lock) -> None:
    names = {package.name for package in locked.of_set(NAME)}
    assert {"ethtool", "lsof", "systemd"} <= names
    assert "charon-systemd" not in names


def test_packages_are_in_the_image(tree: Path) -> None:
    assert os.access(tree / "usr/sbin/ethtool", os.X_OK)
    assert os.access(tree / "usr/bin/lsof", os.X_OK)


def test_file_of_the_own_role_is_in_the_image_with_its_origin(tree: Path, built: Built) -> None:
    assert (tree / "usr/lib/kiosk.conf").read_text() == "Please touch\n"
    origin = json.loads((built.release / "origin.json").read_text())
    assert origin["/usr/lib/kiosk.conf"] == "role kiosk: Lay down the greeting"
    assert origin["/usr/lib/os-release"].startswith("role vauban.fleet.core: ")


def test_image_says_that_it_is_the_derived_product(tree: Path, built: Built) -> None:
    lines = (tree / "usr/lib/os-release").read_text().splitlines()
    assert {f"IMAGE_ID={NAME}", f'IMAGE_VERSION="{VERSION}"'} <= set(lines)
    manifest = json.loads((built.release / "manifest.json").read_text())
    assert (manifest["product"], manifest["version"]) == (NAME, VERSION)


def test_own_hardware_profile_adds_module_and_kernel_argument(tree: Path, built: Built) -> None:
    assert list(tree.glob("usr/lib/modules/*/kernel/drivers/hid/hid-multitouch.ko"))
    command_line = result_of(built.release / f"{NAME}_{VERSION}.efi")["command_line"]
    assert "usbcore.autosuspend=-1" in command_line.split()


def test_roles_run_anew_only_if_they_name_the_kernel_arguments(project: Project, built: Built) -> None:
    def would_be_made(**variables: object) -> list[str]:
        done = project.play("build", "--skip-tags", "disk_image", "--check", "-e", json.dumps(variables))
        assert done.returncode == 0, done.stdout + done.stderr
        return [line for line in done.stdout.splitlines() if "would be made" in line]

    arguments = {"product_kernel_arguments": ["quiet"]}
    made = would_be_made(**arguments)
    assert [line for line in made if " Join and sign " in line]
    assert not [line for line in made if " Open the layer " in line], made
    named = would_be_made(**arguments, kiosk_greeting="{{ product_kernel_arguments | first }}")
    (opened,) = [line for line in named if " Open the layer " in line]
    assert opened.endswith("changed: variable kiosk_greeting, variable product_kernel_arguments")


def test_changed_role_makes_the_image_anew_and_nothing_below_it(project: Project, built: Built) -> None:
    task = project.directory / "roles/kiosk/tasks/main.yml"
    task.write_text(task.read_text().replace("{{ kiosk_greeting }}", "{{ kiosk_greeting }}!"))
    done = project.play("build", "--skip-tags", "disk_image", "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    changed = [line for line in done.stdout.splitlines() if "would be made" in line]
    assert any(line.endswith("changed: roles") for line in changed), done.stdout
    assert any(" Pack the core " in line for line in changed)
    assert not any(" Install the " in line for line in changed)
