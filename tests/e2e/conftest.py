# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies of the built machine, to be booted and attacked.

The release comes from FLEET_RELEASE, else build/gateway/0.1.0; `make build` makes it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from machines import Boot, NewMachine

from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._vm import accel, installed
from ansible_collections.vauban.fleet.plugins.module_utils._vm.firmware import create_vars
from ansible_collections.vauban.fleet.plugins.module_utils._vm.machine import Machine
from ansible_collections.vauban.fleet.plugins.module_utils._vm.spec import Disk, MachineSpec, UefiBoot

ROOT = Path(__file__).resolve().parents[2]
RELEASE = Path(os.environ.get("FLEET_RELEASE", ROOT / "build/gateway/0.1.0"))
SDK = Path(os.environ.get("FLEET_SDK", ROOT / "build/sdk/current"))
KEYS = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "vauban.fleet/keys"


@pytest.fixture(scope="session")
def release() -> Path:
    if not (RELEASE / "machine" / installed.DISK).exists():
        pytest.skip(f"no built machine at {RELEASE}: run 'make build', or set FLEET_RELEASE")
    return RELEASE


@pytest.fixture(scope="session")
def manifest(release: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((release / "manifest.json").read_text("utf-8"))
    return data


@pytest.fixture(scope="session")
def keys(manifest: dict[str, Any]) -> ProductKeys:
    return ProductKeys(KEYS / manifest["product"])


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    if not SDK.exists():
        pytest.skip(f"no SDK at {SDK}: run 'make build', or set FLEET_SDK")
    return Sandbox(SDK.resolve(), tmp_path_factory.mktemp("mounts"))


@pytest.fixture(scope="session")
def accelerator(sandbox: Sandbox) -> accel.Accelerator:
    return accel.detect(sandbox, smm=True)


@pytest.fixture
def boot(sandbox: Sandbox, accelerator: accel.Accelerator) -> Boot:
    """Start a machine; the console is in serial.log of its directory."""

    @contextmanager
    def start(spec: MachineSpec) -> Iterator[Machine]:
        with Machine(spec, sandbox, accelerator=accelerator) as machine:
            yield machine

    return start


@pytest.fixture
def copy(sandbox: Sandbox, release: Path, tmp_path: Path) -> NewMachine:
    """A copy of the built machine, with the changes a test wants."""

    def make(**changes: Any) -> MachineSpec:
        directory = tmp_path / "machine"
        directory.mkdir()
        return replace(installed.copy_of(sandbox, release / "machine", directory), **changes)

    return make


@pytest.fixture
def bare(sandbox: Sandbox, keys: ProductKeys, tmp_path: Path) -> NewMachine:
    """A machine with the product's Secure Boot keys that boots an EFI binary from a medium and has nothing else."""

    def make(binary: Path) -> MachineSpec:
        directory = tmp_path / "machine"
        directory.mkdir()
        create_vars(sandbox, directory / "variables.fd", keys=installed.secure_boot_keys(keys))
        installed.write_boot_medium(sandbox, binary, directory / "boot.vfat")
        return MachineSpec(
            name="bare",
            directory=directory,
            boot=UefiBoot(directory / "variables.fd"),
            disks=(Disk(directory / "boot.vfat", readonly=True, serial="boot", bootindex=0),),
        )

    return make
