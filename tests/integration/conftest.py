# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbooks over connection rootfs, and whole builds.

The former play in a root tree that `make build` has made: FLEET_BASE, else of those in build/trees the one that has the
most packages of product gateway, and of several the newest.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import builds
import hosts
import playing
import pytest
from configurations import SECONDS
from grouping import Groups
from sdk import SDK

from ansible_collections.vauban.fleet.plugins.module_utils._boot import key_directory
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import KeyRequest, ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._image import lock
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox

ROOT = Path(__file__).resolve().parents[2]
GROUPS = Groups(
    {
        "builds": {"test_derived", "test_offline_build", "test_reproducible", "test_rootless"},
        "machines": {"test_measurement", "test_qemu_vm", "test_tpm_device", "test_vm"},
        "configuration": {"test_configuration_client", "test_configuration_rotation", "test_configure_playbook"},
        "image": {"test_admin_access", "test_confinement", "test_logging", "test_services", "test_time_sync"},
    }
)


class Played(NamedTuple):
    """The results of the tasks, and what ansible-playbook printed."""

    results: list[dict[str, Any]]
    printed: str

    @property
    def changed(self) -> list[bool]:
        return [result["changed"] for result in self.results]


Task = dict[str, Any]
Play = Callable[..., Played]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Whole groups of files to each process."""
    return GROUPS.scheduler(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    GROUPS.sort(items)


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """Runs programs of the SDK."""
    if not SDK.exists():
        pytest.skip(f"no SDK at {SDK}: run 'make build', or set FLEET_SDK")
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed: run 'make host'")
    return Sandbox(SDK, tmp_path_factory.mktemp("scratch"))


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    return tmp_path / "layer"


@pytest.fixture(scope="session")
def base() -> Path:
    """A root tree to lay changes over; it is only read."""
    trees = [Path(os.environ["FLEET_BASE"])] if "FLEET_BASE" in os.environ else [*ROOT.glob("build/trees/*/root")]
    if not SDK.exists() or not trees:
        pytest.skip("no SDK or no root tree: run 'make build', or set FLEET_SDK and FLEET_BASE")
    wanted = {package.name for package in lock.read(builds.LOCK).of_set(builds.PRODUCT)}
    return max(trees, key=lambda tree: (len(wanted & _installed(tree)), tree.parent.stat().st_mtime))


def _installed(tree: Path) -> set[str]:
    status = (tree / "var/lib/dpkg/status").read_text("utf-8")
    return set(re.findall("(?m)^Package: (.*)$", status))


@pytest.fixture
def play_in_tree(tmp_path: Path, layer: Path, base: Path) -> Play:
    """Run tasks in the tree, all of them even if one fails."""
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed: run 'make host'")
    if os.geteuid() != 0:
        pytest.skip("the files of the tree belong to root")

    def call(*tasks: Task, options: tuple[str, ...] = (), **variables: str) -> Played:
        names = [f"result{number}" for number in range(len(tasks))]
        goes_on = {"ignore_errors": True, "ignore_unreachable": True}
        book = [{**task, **goes_on, "register": name} for task, name in zip(tasks, names, strict=True)]
        # Printed, since a module that writes a file takes as long as all the rest; encoded, so that it is one word.
        book.append({"ansible.builtin.debug": {"msg": f"{{{{ [{', '.join(names)}] | to_json | b64encode }}}}"}})
        done = playing.play_in_tree(tmp_path, SDK, base, {"tasks": book}, *options, layer=layer, **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        results = re.findall('"msg": "([A-Za-z0-9+/=]+)"', done.stdout)[-1]
        return Played(json.loads(base64.b64decode(results)), done.stdout + done.stderr)

    return call


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> builds.Built:
    """The product as root builds it from this checkout. It stays: the next run only makes what changed."""
    if os.geteuid() != 0:
        pytest.skip("compares with a build by root: run as root")
    builds.require_tools()
    place = builds.Place.below(tmp_path_factory.mktemp("reference"), **builds.REFERENCE)
    builds.copy_checkout(place)
    builds.share_trees()
    return place.built()


@pytest.fixture(scope="session")
def user() -> Iterator[builds.User]:
    """A new ordinary user with subordinate ids, who is gone after the tests."""
    builds.require_users()
    with builds.temporary_user() as made:
        yield made


@pytest.fixture(scope="session")
def user_place(user: builds.User) -> builds.Place:
    """The home of that user, with a checkout and the packages, where all that must not reach an image is odd."""
    place = builds.odd_place(user)
    builds.copy_checkout(place, private=True)
    builds.link_assets(place)
    user.take(place.root)
    return place


@pytest.fixture(scope="session")
def rootless(reference: builds.Built, user: builds.User, user_place: builds.Place) -> builds.Built:
    """The product as that user builds it, with the keys of the reference."""
    shutil.copytree(builds.REFERENCE["keys"], user_place.keys)
    user.take(user_place.keys)
    return user_place.built()


def play_roles(directory: Path, base: Path, *roles: str, **variables: Any) -> subprocess.CompletedProcess[str]:
    """Apply roles to a tree; changes go to ``layer`` below the directory."""
    play = {"roles": [f"vauban.fleet.{name}" for name in roles]}
    return playing.play_in_tree(directory, SDK, base, play, layer=directory / "layer", **variables)


@pytest.fixture(scope="session")
def image(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """The root tree with what the roles of a site put into each image, the topmost layer first."""
    hosts.require()
    directory = tmp_path_factory.mktemp("image")
    done = play_roles(directory, base, "admin_access", "time_sync", "logging", "confinement")
    assert done.returncode == 0, done.stdout + done.stderr
    return directory / "layer/upper", base


@pytest.fixture(scope="session")
def server_keys(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The key directory of product server."""
    made = ProductKeys(tmp_path_factory.mktemp("keys") / "server")
    key_directory.ensure(made, KeyRequest(name="server", kind="development"), sandbox, now=dt.datetime.now(dt.UTC))
    return made.directory


@pytest.fixture(scope="session")
def configured(base: Path, server_keys: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """The root tree with the roles of a product whose configuration can be changed, the topmost layer first."""
    hosts.require()
    directory = tmp_path_factory.mktemp("configured")
    roles = ["admin_access", "firewall", "tunnel", "strongswan", "time_sync", "logging"]
    roles += ["configuration_client", "confinement"]
    variables = {"product_keys_path": str(server_keys), "configuration_client_seconds": SECONDS}
    done = play_roles(directory, base, *roles, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory / "layer/upper", base


@pytest.fixture
def make_host(image: tuple[Path, ...], tmp_path: Path) -> Iterator[Callable[[str], hosts.Host]]:
    """Start hosts that run this image, as many as a test wants; all end with it."""
    with ExitStack() as stack:
        yield lambda name: stack.enter_context(hosts.host(name, SDK, image, tmp_path / name))
