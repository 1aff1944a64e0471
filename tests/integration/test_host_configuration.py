# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host's configuration in front of the core's: mount(8) and systemd's generator read fstab as the initrd has it."""

from __future__ import annotations

from pathlib import Path

import jinja2
import pytest
import yaml

from ansible_collections.vauban.fleet.plugins.action import initrd
from ansible_collections.vauban.fleet.plugins.module_utils._install import configuration, state
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox
from ansible_collections.vauban.fleet.plugins.plugin_utils._site import archive

COLLECTION = Path(__file__).resolve().parents[2]
PLACES = yaml.safe_load((COLLECTION / "files/state_places.yml").read_text())
FSTAB = COLLECTION / "roles/core/files/root/etc/fstab.j2"
GENERATOR = "/usr/lib/systemd/system-generators/systemd-fstab-generator"


@pytest.fixture
def fstab(tmp_path: Path) -> str:
    """The initrd's."""
    template = jinja2.Template(FSTAB.read_text(), trim_blocks=True, keep_trailing_newline=True)
    text = template.render(core_root_format="erofs", core_state_places=PLACES)
    files = {"etc/fstab": text, "etc/crypttab": "", "usr/lib/os-release": ""}
    for name, content in files.items():
        (tmp_path / "layer/upper" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "layer/upper" / name).write_text(content)
    return initrd._texts({"layer": tmp_path / "layer", "kind": "system", "moved_pcrs": [], "dbx_pcrs": []})["etc/fstab"]


@pytest.fixture
def sysroot(tmp_path: Path) -> Path:
    """A core, and below /state the volume as the installer leaves it: at the mount points of the machine."""
    root = tmp_path / "sysroot"
    for name in ("etc/chrony", "etc/systemd/system", "var", "home", "state"):
        (root / name).mkdir(parents=True)
    (root / "etc/chrony").chmod(0o750)
    (root / "etc/chrony/chrony.conf").write_text("core\n")
    (root / "etc/hostname").write_text("core\n")
    (root / "etc/program").write_text("#!/bin/sh\n")
    (root / "etc/program").chmod(0o755)
    (root / "etc/machine-id").write_text("")
    state.make_places(root / "state", PLACES)
    return root


def ask(sandbox: Sandbox, sysroot: Path, fstab: str, question: str) -> str:
    """Mount what the initrd mounts, beside the volume itself, then ask with a shell."""
    lines = fstab.replace("/sysroot", "/run/sysroot").splitlines(keepends=True)
    table = sysroot.parent / "table"
    table.write_text("".join(line for line in lines if not line.startswith("/dev/")))
    script = f"mount --all --fstab /run/table; cd /run/sysroot; {question}"
    binds = [Bind(sysroot, "/run/sysroot", writable=True), Bind(table, "/run/table")]
    return sandbox.run(["sh", "-euc", script], binds=binds, privileged=True).stdout


def test_configuration_stands_in_front_of_the_core(sandbox: Sandbox, sysroot: Path, fstab: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in ("etc/chrony/chrony.conf", "etc/systemd/system/new.service"):
        (tree / name).parent.mkdir(parents=True)
        (tree / name).write_text("host\n")
    digest = archive.write(tree, tmp_path / "archive")
    configuration.unpack(tmp_path / "archive", digest, sysroot / "state", sysroot)
    said = ask(sandbox, sysroot, fstab, "cat etc/chrony/chrony.conf etc/hostname etc/systemd/system/new.service")
    assert said == "host\ncore\nhost\n"
    assert ask(sandbox, sysroot, fstab, "stat --format=%a%u%g etc etc/chrony etc/systemd").split() == [
        "75500",
        "75000",
        "75500",
    ]


def test_without_configuration_the_core_is_as_it_was(sandbox: Sandbox, sysroot: Path, fstab: str) -> None:
    assert ask(sandbox, sysroot, fstab, "cat etc/chrony/chrony.conf etc/hostname") == "core\ncore\n"
    assert "75000" in ask(sandbox, sysroot, fstab, "stat --format=%a%u%g etc/chrony")


def test_nothing_of_it_can_be_written_or_run(sandbox: Sandbox, sysroot: Path, fstab: str) -> None:
    assert "Read-only file system" in ask(sandbox, sysroot, fstab, "touch etc/new 2>&1 || true")
    assert "Permission denied" in ask(sandbox, sysroot, fstab, "etc/program 2>&1 || true")
    shown = ask(sandbox, sysroot, fstab, "findmnt --noheadings --output FSTYPE,OPTIONS /run/sysroot/etc").split()
    assert shown[0] == "overlay"
    assert {"ro", "nodev", "nosuid", "noexec"} <= set(shown[1].split(","))


def test_machine_id_lies_over_it(sandbox: Sandbox, sysroot: Path, fstab: str) -> None:
    machine_id = (sysroot / "state/etc/machine-id").read_text()
    assert len(machine_id.strip()) == 32
    assert ask(sandbox, sysroot, fstab, "cat etc/machine-id") == machine_id


def test_systemd_mounts_it_after_the_volume_and_goes_not_on_without(
    sandbox: Sandbox, fstab: str, tmp_path: Path
) -> None:
    """What systemd.mount(5) makes requirements and an order of."""
    (tmp_path / "fstab").write_text(fstab)
    (tmp_path / "units").mkdir()
    binds = [Bind(tmp_path / "fstab", "/run/fstab"), Bind(tmp_path / "units", "/run/units", writable=True)]
    environment = {"SYSTEMD_FSTAB": "/run/fstab", "SYSTEMD_IN_INITRD": "1", "SYSTEMD_PROC_CMDLINE": "quiet"}
    sandbox.run([GENERATOR, *["/run/units"] * 3], binds=binds, privileged=True, env=environment)
    unit = (tmp_path / "units/sysroot-etc.mount").read_text().splitlines()
    assert {"What=overlay", "RequiresMountsFor=/sysroot/state", "Before=local-fs.target"} <= set(unit)
    assert (tmp_path / "units/local-fs.target.requires/sysroot-etc.mount").is_symlink()
