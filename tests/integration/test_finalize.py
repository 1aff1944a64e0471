# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small root tree becomes what a core image holds, inside the SDK (FLEET_SDK, else build/sdk/current)."""

from __future__ import annotations

import lzma
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sdk import SDK

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._image import inside
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Layers, Sandbox

RELEASE = "6.12.0-amd64"
MODULES = f"usr/lib/modules/{RELEASE}"

pytestmark = [
    pytest.mark.skipif(not SDK.exists(), reason=f"no SDK at {SDK}: set FLEET_SDK, or build it with 'make build'"),
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed: run 'make host'"),
]

PACKAGES = {
    "bash": ["/bin/bash", "/usr/share/doc/bash/README", "/usr/lib/tmpfiles.d/bash.conf"],
    "dpkg": ["/usr/bin/dpkg", "/usr/bin/dpkg-divert", "/usr/bin/linked"],
    "linux-image": [f"/boot/vmlinuz-{RELEASE}", *(f"/{MODULES}/kernel/{name}.ko.xz" for name in ("wanted", "other"))],
}
CLEANUP: dict[str, Any] = {
    "packages": ["dpkg"],
    "paths": ["/boot/*", "/usr/share/doc"],
    "unless_written": ["/etc/hostname"],
    "interpreters": ["perl"],
    "var_kept": ["/var/lib"],
    "empty_directories": {"/var": "0755", "/tmp": "0755", "/boot": "0700"},
}
EXPLANATIONS = {
    "/etc/group": "maintainer scripts",
    f"/{MODULES}/*": "depmod",
    "/usr/lib/tmpfiles.d/vauban*": "finalize",
}

Finalize = Callable[..., dict[str, Any]]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    contents = {path.lstrip("/"): b"content\n" for paths in PACKAGES.values() for path in paths}
    contents["usr/bin/bash"] = contents.pop("bin/bash")
    contents |= {name: lzma.compress(b"code") for name in contents if name.endswith(".ko.xz")}
    contents |= {
        "etc/group": b"root:x:0:\n",
        "etc/hostname": b"builder\n",
        "etc/role-file": b"written by a role\n",
        "usr/bin/script": b"#!/usr/bin/perl\n",
        f"{MODULES}/modules.order": b"kernel/wanted.ko\nkernel/other.ko\n",
        "var/cache/left": b"over",
    }
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.dep", "modules.softdep", "modules.alias"):
        contents[f"{MODULES}/{name}"] = b""
    status = "\n\n".join(f"Package: {name}\nVersion: 1.0-1\n" for name in PACKAGES)
    contents["var/lib/dpkg/status"] = status.encode()
    for name, paths in PACKAGES.items():
        contents[f"var/lib/dpkg/info/{name}.list"] = "\n".join(paths).encode()
    for name, content in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (root / "usr/bin/bash").chmod(0o6755)
    (root / "usr/bin/script").chmod(0o755)
    (root / "usr/bin/alternative").symlink_to("/usr/bin/dpkg")
    (root / "tmp").mkdir(mode=0o1777)
    return root


@pytest.fixture
def finalize(tree: Path, tmp_path: Path) -> Finalize:
    """Call it as a build does, with the changes in directory ``upper``."""
    for name in ("scratch", "upper", "work", "out"):
        (tmp_path / name).mkdir()

    def call(**changes: Any) -> dict[str, Any]:
        arguments = {
            "cleanup": CLEANUP,
            "explanations": EXPLANATIONS,
            "roles": {"/etc/role-file": "role core: lay it down"},
            "modules": ["wanted"],
            "firmware": [],
            **changes,
        }
        answer: dict[str, Any] = inside.call(
            Sandbox(SDK, tmp_path / "scratch"),
            "_image.finalize.finalize",
            arguments,
            binds=[Bind(tmp_path / "out", "/run/out", writable=True)],
            layers={"/run/tree": Layers((tree,), tmp_path / "upper", tmp_path / "work")},
            epoch=1,
            log=tmp_path / "log",
        )
        return answer

    return call


def test_what_the_image_holds_and_where_it_comes_from(finalize: Finalize, tmp_path: Path) -> None:
    answer = finalize()
    assert answer["kernel"] == RELEASE
    assert answer["packages"] == {"bash": "1.0-1", "linux-image": "1.0-1"}
    assert (tmp_path / "out/vmlinuz").read_bytes() == b"content\n"
    origin = answer["origin"]
    assert origin["/etc/group"] == "generated: maintainer scripts"
    assert origin["/etc/role-file"] == "role core: lay it down"
    assert origin["/usr/bin/bash"] == "package bash=1.0-1"
    indexes = {path for path in origin if path.startswith(f"/{MODULES}/modules.")}
    assert f"/{MODULES}/modules.dep.bin" in indexes
    assert set(origin) - indexes == {
        "/etc/group",
        "/etc/role-file",
        "/usr/bin/bash",
        "/usr/lib/tmpfiles.d/bash.conf",
        "/usr/lib/tmpfiles.d/vauban-var.conf",
        f"/{MODULES}/kernel/wanted.ko",
    }


@pytest.mark.parametrize("written", [False, True])
def test_name_of_the_machine_that_builds_stays_only_where_a_role_wrote_it(
    finalize: Finalize, tmp_path: Path, written: bool
) -> None:
    names = ["/etc/role-file", *(["/etc/hostname"] if written else [])]
    origin = finalize(roles=dict.fromkeys(names, "role network: name it"))["origin"]
    assert origin.get("/etc/hostname") == ("role network: name it" if written else None)
    assert (tmp_path / "upper/etc/hostname").is_char_device() != written  # overlayfs hides it


def test_changes_reach_the_layer_and_not_the_tree(finalize: Finalize, tree: Path, tmp_path: Path) -> None:
    before = sorted(tree.rglob("*"))
    finalize()
    upper = tmp_path / "upper"
    assert sorted(tree.rglob("*")) == before
    assert stat.S_IMODE((tree / "usr/bin/bash").stat().st_mode) == 0o6755
    assert stat.S_IMODE((upper / "usr/bin/bash").stat().st_mode) == 0o755
    assert (upper / MODULES / "kernel/wanted.ko").read_bytes() == b"code"
    assert stat.S_IMODE((upper / "tmp").stat().st_mode) == 0o755
    assert "d /var/lib 0755 0 0 -" in (upper / "usr/lib/tmpfiles.d/vauban-var.conf").read_text()


def test_file_of_unknown_origin_stops_the_build(finalize: Finalize, tree: Path) -> None:
    (tree / "usr/bin/stranger").touch()
    with pytest.raises(FleetError) as caught:
        finalize()
    assert "1 files of the image have no known origin:\n  /usr/bin/stranger" in caught.value.message
    assert (caught.value.where, caught.value.remedy is None) == ("files/origin.yml", False)


def test_unknown_module_stops_the_build(finalize: Finalize) -> None:
    with pytest.raises(FleetError, match=f"kernel {RELEASE} has no module named: misspelt"):
        finalize(modules=["wanted", "misspelt"])
