#!/usr/bin/env python
# Copyright: (c) 2026, the vauban.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How much a machine fetches for an update: our patch beside other tools and a plain download.

usage: tests/bench/deltas.py BEFORE AFTER [BEFORE AFTER ...]

Each is the directory of a built release; tests/bench/delta_releases.py builds some. For each pair: bytes, CPU seconds
to make and to apply what is fetched, and the memory that takes. What the others are given:

bundle                   what machines fetch without patches
zstd -19                 core and UKI, compressed: the full compressed download
bundle, xdelta3          the bundle from the bundle before
zstd --patch-from        core and UKI from those before, -19 with a window of 256 MiB
casync                   chunks of core and UKI that are not among those before, as it compresses them

Programs of this machine, of which xdelta3 and casync are left out where they are missing, and the SDK. desync is in no
archive that the project uses; its chunks are those of casync.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from cpu import adopt_orphans, cpu_seconds
from memory import Peak

from build import ROOT

sys.path.insert(0, str(ROOT / "build/collections"))
sys.path.insert(0, str(ROOT / "tests/support"))

from sdk import SDK

from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._update import patch

MIB = 1024 * 1024
PROGRAM = ROOT / "roles/update_client/files/root/usr/lib/vauban/update-patch"
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def files(release: Path) -> dict[str, Path]:
    """Core, UKI and bundle, by what they are."""
    manifest = json.loads((release / "manifest.json").read_text())
    return {part: release / manifest[part]["file"] for part in ("core", "uki", "bundle")}


def cost(action: Callable[[], int]) -> tuple[int, float, float]:
    """What it returns; CPU seconds; peak memory in MiB."""
    used = cpu_seconds()
    with Peak() as peak:
        found = action()
    return found, cpu_seconds() - used, peak.bytes / MIB


def zstd(work: Path, *paths: Path, before: dict[str, Path] | None = None) -> int:
    """Bytes of these files compressed, each from the one before if there is one."""
    total = 0
    for number, path in enumerate(paths):
        options = ["--long=28", f"--patch-from={list(before.values())[number]}"] if before else []
        dest = work / "zstd"
        subprocess.run(["zstd", "-q", "-f", "-19", *options, path, "-o", dest], check=True, **QUIET)
        total += dest.stat().st_size
    return total


def xdelta3(work: Path, before: Path, after: Path) -> int:
    """Bytes of a patch between two bundles."""
    command = ["xdelta3", "-e", "-f", "-9", "-S", "lzma", "-D", "-B", str(patch.WINDOW), "-s", before, after]
    subprocess.run([*command, work / "xdelta3"], check=True, **QUIET)
    return (work / "xdelta3").stat().st_size


def casync(work: Path, before: dict[str, Path], after: dict[str, Path]) -> int:
    """Bytes of the chunks that a store with the release before lacks."""
    stores = [work / "chunks.before", work / "chunks.after"]
    for store, release in zip(stores, (before, after), strict=True):
        for part in ("core", "uki"):
            command = ["casync", "make", f"--store={store}", work / f"{part}.caibx", release[part]]
            subprocess.run(command, check=True, **QUIET)
    known = {path.name for path in stores[0].glob("*/*")}
    return sum(path.stat().st_size for path in stores[1].glob("*/*") if path.name not in known)


def ours(sandbox: Sandbox, work: Path, before: Path, after: Path) -> Iterator[tuple[str, int, float, float]]:
    """Make the patch and apply it, which making it does once, too."""
    dest = work / "patches"
    made: list[patch.Patch] = []

    def make() -> int:
        found = patch.make(sandbox, before, after, dest, program=PROGRAM, work=work)
        made.extend([found] if found is not None else [])
        return found.size if found is not None else 0

    yield ("our patch, made and tried", *cost(make))
    if not made:
        return
    (work / "patch.json").write_text(json.dumps(made[0].as_dict()))
    shutil.copy(after / "manifest.json", work / "manifest.verified")
    binds = [Bind(work, "/run/work", writable=True), Bind(PROGRAM, "/run/program")]
    binds += [Bind(dest / made[0].name, "/run/patch")]
    binds += [Bind(files(before)[part], f"/run/old/{part}") for part in ("core", "uki")]
    command = ["sh", "/run/program", "/run/patch", "/run/old/core", "/run/old/uki", "new.core", "new.uki"]

    def apply() -> int:
        sandbox.run(command, binds=binds, cwd="/run/work")
        return 0

    yield ("our patch, applied", *cost(apply))


def main() -> None:
    """Print a table for each pair."""
    words = [Path(word).resolve() for word in sys.argv[1:]]
    if not words or len(words) % 2:
        sys.exit(__doc__)
    adopt_orphans()
    print(f"load average at start: {os.getloadavg()[0]:.1f}")
    for before, after in zip(words[::2], words[1::2], strict=True):
        print(f"\n{before.name} -> {after.name}")
        with tempfile.TemporaryDirectory(prefix="deltas-", dir=os.environ.get("TMPDIR", "/var/tmp")) as directory:
            table(Path(directory), before, after)


def table(work: Path, before: Path, after: Path) -> None:
    """Print what one update costs: each line when it has been measured, and the shares of all at the end."""
    (work / "scratch").mkdir()
    sandbox, old, new = Sandbox(SDK, work / "scratch"), files(before), files(after)
    rows: list[tuple[str, int]] = []

    def show(name: str, size: int, used: float = 0.0, most: float = 0.0) -> None:
        rows.append((name, size))
        print(f"{name:<28} {size:>12} {used:>7.1f} {most:>9.0f}", flush=True)

    print(f"{'what is fetched':<28} {'bytes':>12} {'CPU s':>7} {'peak MiB':>9}")
    show("bundle", new["bundle"].stat().st_size)
    for row in ours(sandbox, work, before, after):
        show(*row)
    if shutil.which("xdelta3"):
        show("bundle, xdelta3", *cost(lambda: xdelta3(work, old["bundle"], new["bundle"])))
    if shutil.which("casync"):
        show("casync", *cost(lambda: casync(work, old, new)))
    show("zstd --patch-from", *cost(lambda: zstd(work, new["core"], new["uki"], before=old)))
    show("zstd -19", *cost(lambda: zstd(work, new["core"], new["uki"])))
    bundle, full = rows[0][1], rows[-1][1]
    for name, size in rows:
        print(f"{name:<28} {size / full:>8.4f} of zstd -19 {size / bundle:>8.4f} of the bundle")


if __name__ == "__main__":
    main()
