#!/usr/bin/env python
# Copyright: (c) 2026, the vauban.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a build costs beside mkosi: CPU seconds of the process tree, bytes.

usage: tests/bench/mkosi.py [DIRECTORY]

Both sides run in one session in a directory of their own (default build/bench), with every package already on this
machine and no network in mkosi's sandbox. Not measured: downloads, keys, and the tree that mkosi and its tools live
in (made once from this machine's apt mirrors, kept in DIRECTORY/mkosi-tools).

ours    the product gateway from nothing: the SDK (our tools tree), the root tree configured by the product's roles,
        core image (erofs, dm-verity, error correction, verified once), initrd, two UKIs signed for Secure Boot with a
        signed PCR policy, signed systemd-boot, SBOM, provenance, signed manifest. Then the same with the SDK kept.
mkosi   one image from nothing, nothing incremental: the packages that the lock file names for the gateway, the same
        kernel, what mkosi's boot loader step needs; no configuration by roles; erofs and dm-verity by systemd-repart,
        mkosi's default initrd, one UKI and systemd-boot signed for Secure Boot with a signed PCR policy, a manifest.
        No error correction, no ESP (ours makes none in this comparison). The root holds all that the packages brought;
        ours leaves out the package manager and modules and firmware of other hardware.

Exit status 2: mkosi cannot run on this machine; the reason is printed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from cpu import adopt_orphans, cpu_seconds

from build import MIB, ROOT, measure

sys.path.insert(0, str(ROOT / "build/collections"))
sys.path.insert(0, str(ROOT / "tests/support"))

from archive import write_archive

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._image import apt, lock
from ansible_collections.vauban.fleet.plugins.module_utils._image.assets import Store
from ansible_collections.vauban.fleet.plugins.module_utils._image.bootstrap import EXCLUDED_PATHS
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox, remove_tree, run_with_ids

CODENAME = "trixie"
LOCK = ROOT / f"files/lock/{CODENAME}.lock.json"
STORE = Store(Path.home() / ".cache/vauban.fleet/assets")
KERNEL = "linux-image-amd64"
BOOT_LOADER = ("systemd-boot", "systemd-boot-efi", "systemd-boot-tools")
TOOLS = (
    "bubblewrap", "cpio", "cryptsetup-bin", "debian-archive-keyring", "dosfstools", "e2fsprogs", "erofs-utils", "kmod",
    "mkosi", "mtools", "openssl", "python3-pefile", "systemd", "systemd-boot", "systemd-repart", "systemd-ukify",
    "udev", "xz-utils", "zstd",
)  # fmt: skip
BENCH = "/run/bench"  # mkosi's directory inside its sandbox

# Documentation and translations are left out as in our trees, and the initrd gets mkosi's own list of kernel modules
# instead of all modules. Everything that is not named has mkosi's default.
CONFIGURATION = f"""\
[Distribution]
Distribution=debian
Release={CODENAME}
LocalMirror=file://{BENCH}/repository

[Output]
Format=disk
Output=gateway
OutputDirectory={BENCH}/output
SplitArtifacts=uki,partitions
ManifestFormat=json
Seed=6c1f2b5e-3b0a-4d6e-9a51-0d6a4f6c7f11

[Build]
CacheDirectory={BENCH}/cache
PackageCacheDirectory={BENCH}/packages
WorkspaceDirectory={BENCH}/workspace
BuildSources=
Incremental=no
WithNetwork=no

[Content]
Bootable=yes
Bootloader=systemd-boot
UnifiedKernelImages=yes
KernelCommandLine=quiet
KernelModulesInitrdExclude=.*
KernelModulesInitrdInclude=default
CleanPackageMetadata=yes
WithDocs=no
RemoveFiles=/usr/share/locale/*
Packages=
    @PACKAGES@

[Validation]
SecureBoot=yes
SecureBootAutoEnroll=no
SecureBootKey={BENCH}/key.pem
SecureBootCertificate={BENCH}/certificate.pem
SignExpectedPcr=yes
SignExpectedPcrKey={BENCH}/key.pem
SignExpectedPcrCertificate={BENCH}/certificate.pem
"""
PARTITIONS = {
    "10-root.conf": """\
[Partition]
Type=root
Format=erofs
CopyFiles=/
ExcludeFiles=/boot/
ExcludeFiles=/efi/
Verity=data
VerityMatchKey=root
Minimize=best
""",
    "20-root-verity.conf": """\
[Partition]
Type=root-verity
Verity=hash
VerityMatchKey=root
Minimize=best
""",
}


class Mkosi:
    """mkosi in a tools tree, and a repository that holds exactly what it installs."""

    def __init__(self, directory: Path) -> None:
        self.tools = directory / "mkosi-tools"
        self.work = directory / "mkosi"
        scratch = directory / "mkosi-mounts"
        for path in (self.work / "mkosi.repart", scratch):
            path.mkdir(parents=True, exist_ok=True)
        self.sandbox = Sandbox(self.tools, scratch)

    def run(self, *words: str, log: str | None = None) -> str:
        """Run mkosi without a network; return its standard output."""
        binds = [Bind(self.work, BENCH, writable=True)]
        path = self.work / log if log else None
        return self.sandbox.run(["mkosi", *words], binds=binds, privileged=True, cwd=BENCH, log=path).stdout

    def make_tools(self, mirrors: dict[str, str]) -> None:
        """Make the tree that mkosi runs in, unless it is there."""
        if self.tools.exists():
            return
        fresh = self.tools.with_name("mkosi-tools.new")
        remove_tree(fresh)
        sources = self.work / "tools.list"
        lines = [f"deb [signed-by={apt.KEYRING}] {mirrors[s.archive]} {s.name} main\n" for s in apt.suites(CODENAME)]
        sources.write_text("".join(lines))
        options = ["--mode=root", "--variant=apt", "--format=directory", "--quiet", f"--include={','.join(TOOLS)}"]
        options += ['--aptopt=APT::Install-Recommends "false"', "--dpkgopt=force-unsafe-io"]
        options += [f"--dpkgopt=path-exclude={path}" for path in EXCLUDED_PATHS]
        run_with_ids(["mmdebstrap", *options, "", str(fresh), str(sources)])
        fresh.rename(self.tools)

    def configure(self, packages: Iterable[str]) -> None:
        """Write mkosi.conf and mkosi.repart, and make the key if there is none."""
        (self.work / "mkosi.conf").write_text(CONFIGURATION.replace("@PACKAGES@", "\n    ".join(sorted(packages))))
        for name, text in PARTITIONS.items():
            (self.work / "mkosi.repart" / name).write_text(text)
        key, certificate = self.work / "key.pem", self.work / "certificate.pem"
        if not certificate.exists():
            words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-noenc", "-days", "30", "-subj", "/CN=bench"]
            subprocess.run([*words, "-keyout", key, "-out", certificate], check=True, stderr=subprocess.DEVNULL)

    def initrd_packages(self) -> list[str]:
        """What mkosi's default initrd installs: names, and regular expressions over names."""
        summary = json.loads(self.run("--include=mkosi-initrd", "--json", "summary"))
        return summary["Images"][-1]["Packages"]

    def clean(self) -> None:
        """Remove everything an earlier build left, so that the next one is cold."""
        for name in ("output", "cache", "packages", "workspace"):
            remove_tree(self.work / name)
            (self.work / name).mkdir()

    def prepare(self, locked: lock.Lock, mirrors: dict[str, str]) -> None:
        """All that is not measured: tools, package list, downloads, repository, configuration."""
        self.make_tools(mirrors)
        wanted = [package.name for package in locked.of_set("gateway")] + [KERNEL, *BOOT_LOADER]
        self.configure(wanted)
        resolver = apt.Resolver(self.work / "apt", CODENAME, mirrors)
        resolver.update()
        needed = resolver.resolve([*wanted, *self.initrd_packages()])
        exact = {package.name: package for package in locked.packages}
        chosen = [exact.get(name, package) for name, package in sorted(needed.items())]
        store = Store(self.work / "store")
        store.fetch(STORE.missing(chosen), mirrors)
        total = write_archive(self.work / "repository", CODENAME, chosen, (STORE, store))
        print(f"mkosi's repository: {len(chosen)} packages, {total / MIB:.0f} MiB", flush=True)


def row(name: str, cpu: float, wall: float, load: float, root: Iterable[Path], uki: Path) -> None:
    """Print one line of the table."""
    sizes = [sum(path.stat().st_size for path in paths) / 1e6 for paths in (root, [uki])]
    print(f"{name:<18} {cpu:>8.1f} {wall:>8.1f} {load:>6.1f} {sizes[0]:>10.1f} {sizes[1]:>8.1f}", flush=True)


def ours(directory: Path, name: str) -> None:
    """Build the gateway, print its line."""
    load, used = os.getloadavg()[0], cpu_seconds()
    wall = measure(directory)[0]
    cpu = cpu_seconds() - used
    release = directory / "gateway/0.1.0"
    row(name, cpu, wall, load, [release / "core.erofs"], release / "gateway_0.1.0.efi")


def theirs(mkosi: Mkosi) -> None:
    """Build with mkosi, print its line."""
    mkosi.clean()
    load, used, start = os.getloadavg()[0], cpu_seconds(), time.monotonic()
    mkosi.run("--force", "build", log="mkosi.log")
    wall = time.monotonic() - start
    cpu = cpu_seconds() - used
    output = mkosi.work / "output"
    row("mkosi", cpu, wall, load, output.glob("gateway.root-x86-64*.raw"), output / "gateway.efi")


def main() -> int:
    """Prepare, measure both sides, print a table."""
    adopt_orphans()
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build/bench").resolve()
    locked, mirrors = lock.read(LOCK), apt.host_mirrors()
    STORE.fetch([package for name in ("sdk", "kernel", "gateway") for package in locked.of_set(name)], mirrors)
    mkosi = Mkosi(directory)
    try:
        mkosi.prepare(locked, mirrors)
        print(mkosi.run("--version").strip())
    except FleetError as exc:
        print(f"mkosi cannot run on this machine: {exc}", file=sys.stderr)
        return 2
    build = directory / "ours"
    remove_tree(build)
    build.mkdir()
    print(f"{'build':<18} {'CPU s':>8} {'wall s':>8} {'load':>6} {'root MB':>10} {'UKI MB':>8}")
    ours(build, "ours")
    for path in build.iterdir():
        if path.name != "sdk":
            remove_tree(path)
    ours(build, "ours, SDK kept")
    try:
        theirs(mkosi)
    except FleetError as exc:
        print(f"mkosi cannot build on this machine: {exc}", file=sys.stderr)
        return 2
    packages = re.findall(r'"type": "deb"', (mkosi.work / "output/gateway.manifest").read_text())
    print(f"mkosi installed {len(packages)} packages. Its tools tree is not counted, our SDK is, in the first line.")
    print("load: average of one minute when the build began. root: with the hash tree, ours also with parity.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
