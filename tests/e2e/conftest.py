# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies of the built machines, to be booted, asked and attacked.

The releases come from FLEET_RELEASE, else build/gateway/0.1.0, and from FLEET_INSTRUMENTED_RELEASE, else the same with
+instrumented behind it. `make build` makes the first, `make build INSTRUMENTED=1` the second.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from disks import cut_out, partitions, volumes
from grouping import Groups
from machines import BOOT_TIMEOUT, Boot, NewMachine, Relink, copy_with_raw_disk, reach, read_manifest
from playing import ansible_playbook
from provisioned_site import SERVER_MAC
from provisioning_server import ADDRESS, INNER_ADDRESS, ProvisioningServer, load_authority, provisioning_server
from sdk import SDK
from shell import PROMPT, Shell

from ansible_collections.vauban.fleet.plugins.module_utils._boot import key_directory, signing, uki
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import KeyRequest, ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._vm import accel, installed
from ansible_collections.vauban.fleet.plugins.module_utils._vm.firmware import create_vars
from ansible_collections.vauban.fleet.plugins.module_utils._vm.machine import Machine
from ansible_collections.vauban.fleet.plugins.module_utils._vm.spec import Disk, MachineSpec, UefiBoot, UserNic

ROOT = Path(__file__).resolve().parents[2]
RELEASE = Path(os.environ.get("FLEET_RELEASE", ROOT / "build/gateway/0.1.0")).absolute()
INSTRUMENTED = Path(os.environ.get("FLEET_INSTRUMENTED_RELEASE", f"{RELEASE}+instrumented")).absolute()
KEYS = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "vauban.fleet/keys"


# An emulated machine fills one CPU, so two processes have one each.
GROUPS = Groups(
    {
        "updates": {"test_update"},
        "server": {"test_provisioning", "test_provisioning_faults"},
        "snapshot": {"test_integrity", "test_state", "test_system"},
    }
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Whole groups of files to each process."""
    return GROUPS.scheduler(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in here:
        item.add_marker(pytest.mark.e2e)
    GROUPS.sort(here)
    items[:] = [*(item for item in items if item not in here), *here]


def _built(release: Path, remedy: str) -> Path:
    if not (release / "machine" / installed.DISK).exists():
        pytest.skip(f"no built machine at {release}: {remedy}")
    return release


@pytest.fixture(scope="session")
def release() -> Path:
    return _built(RELEASE, "run 'make build', or set FLEET_RELEASE")


@pytest.fixture(scope="session")
def instrumented_release() -> Path:
    return _built(INSTRUMENTED, "run 'make build INSTRUMENTED=1', or set FLEET_INSTRUMENTED_RELEASE")


@pytest.fixture(scope="session")
def authority() -> Path:
    """Directory of the authority that certifies provisioning servers; kept, so that the installer below is."""
    directory = ROOT / "build/e2e/authority"
    load_authority(directory)
    return directory


def _networked(product: str, authority: Path, instrumentation: Sequence[str] = ()) -> Path:
    """A release whose installer knows a provisioning server. Made here, unless it is there already."""
    version = "0.1.0-networked"
    enrolment = {
        "url": "https://provision.example.org",
        "authority": str(authority / "authority.pem"),
        "addresses": [ADDRESS, INNER_ADDRESS],
        "secure_boot_keys": str(KEYS / product),
    }
    variables = {"product_version": version, "product_enrolment": enrolment}
    variables["product_instrumentation"] = list(instrumentation)
    words = ["-i", "inventories/reference", "--limit", product, "-e", json.dumps(variables)]
    for playbook in (["playbooks/pki.yml"], ["playbooks/build.yml", "--skip-tags", "disk_image"]):
        done = ansible_playbook(ROOT, *playbook, *words)
        assert done.returncode == 0, done.stdout + done.stderr
    return ROOT / "build" / product / (f"{version}+instrumented" if instrumentation else version)


@pytest.fixture(scope="session")
def networked_release(authority: Path) -> Path:
    """Of product gateway."""
    return _networked("gateway", authority)


@pytest.fixture(scope="session")
def networked_server_release(authority: Path) -> Path:
    """Of product server."""
    return _networked("server", authority)


@pytest.fixture(scope="session")
def networked_instrumented_server_release(authority: Path) -> Path:
    """Of product server, with a root shell."""
    return _networked("server", authority, ["serial_root_shell"])


@pytest.fixture(scope="module")
def server(
    networked_release: Path, authority: Path, sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ProvisioningServer]:
    """A provisioning server that offers the release of the gateway, by HTTP and by TFTP.

    It knows that of product server by name, for the machine with ``SERVER_MAC``, and does not have it.
    """
    manifest = read_manifest(networked_release)
    installer = networked_release / manifest["installer"]["file"]
    release = {key: manifest[key] for key in ("product", "version")}
    installers = [
        {"name": "gateway", "pxe": "installer.efi", **release},
        {"name": "server", **release, "product": "server"},
    ]
    with provisioning_server(
        tmp_path_factory.mktemp("provisioning") / "server",
        sandbox=sandbox,
        installers=installers,
        authority=authority,
        boot_server_hosts=[{"name": "server", "macs": [SERVER_MAC], "installer": "server"}],
    ) as started:
        started.publish(networked_release)
        shutil.copyfile(installer, started.machine.root / "srv/vauban/tftp/installer.efi")
        yield started
        for line in started.admin.get("/admin/v1/audit").json()["records"]:
            print(line["time"], line["actor"], line["action"], line["detail"])  # pytest shows it of a test that fails


@pytest.fixture(scope="session")
def manifest(release: Path) -> dict[str, Any]:
    return read_manifest(release)


@pytest.fixture(scope="session")
def keys(manifest: dict[str, Any]) -> ProductKeys:
    return ProductKeys(KEYS / manifest["product"])


@pytest.fixture(scope="session")
def strangers(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> ProductKeys:
    """Keys like those of the product, which no machine knows."""
    made = ProductKeys(tmp_path_factory.mktemp("stranger") / "stranger")
    key_directory.ensure(made, KeyRequest(name="stranger", kind="development"), sandbox, now=dt.datetime.now(dt.UTC))
    return made


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    if not SDK.exists():
        pytest.skip(f"no SDK at {SDK}: run 'make build', or set FLEET_SDK")
    return Sandbox(SDK.resolve(), tmp_path_factory.mktemp("mounts"))


@pytest.fixture(scope="session")
def accelerator(sandbox: Sandbox) -> accel.Accelerator:
    return accel.detect(sandbox, smm=True)


@pytest.fixture(scope="session")
def boot(sandbox: Sandbox, accelerator: accel.Accelerator) -> Boot:
    """Start a machine; the console is in serial.log of its directory."""

    @contextmanager
    def start(spec: MachineSpec) -> Iterator[Machine]:
        with Machine(spec, sandbox, accelerator=accelerator) as machine:
            yield machine

    return start


@pytest.fixture
def copy(sandbox: Sandbox, release: Path, tmp_path: Path) -> NewMachine:
    """A copy of the built machine, with the changes a test wants; its disk holds the differences only."""

    def make(**changes: Any) -> MachineSpec:
        return replace(installed.copy_of(sandbox, release / "machine", _directory(tmp_path)), **changes)

    return make


@pytest.fixture
def copy_to_damage(release: Path, tmp_path: Path) -> NewMachine:
    """A copy of the built machine with a raw disk of its own: ``disks[0].path``."""
    return lambda: copy_with_raw_disk(release, _directory(tmp_path))


@pytest.fixture(scope="session")
def state_volume(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bytes of the built machine's state volume, taken from its disk."""
    disk, volume = release / "machine" / installed.DISK, tmp_path_factory.mktemp("state") / "state.luks"
    cut_out(disk, volumes(disk)["state"], volume)
    return volume


@pytest.fixture(scope="session")
def snapshot(
    instrumented_release: Path, state_volume: Path, boot: Boot, tmp_path_factory: pytest.TempPathFactory
) -> MachineSpec:
    """An instrumented machine that has started, with a raw disk and a network card; not running, to be continued.

    The state volume of another machine is at hand as the disk "foreign".
    """
    spec = copy_with_raw_disk(instrumented_release, tmp_path_factory.mktemp("snapshot"))
    foreign = Disk(state_volume, readonly=True, serial="foreign")
    spec = replace(spec, nics=(UserNic(),), disks=(*spec.disks, foreign))
    with boot(spec) as machine:
        reach(machine, PROMPT)
        shell = Shell(machine)
        shell.ask("systemctl is-system-running --wait", timeout=BOOT_TIMEOUT)
        machine.save(spec.directory / "saved")
    return replace(spec, restore=spec.directory / "saved")


@pytest.fixture(scope="session")
def continued(snapshot: MachineSpec) -> NewMachine:
    """A machine of its own that goes on where the snapshot was taken, in a new directory."""

    def make(parent: Path) -> MachineSpec:
        directory = parent / "continued"
        command = ["cp", "--recursive", "--sparse=always", "--reflink=auto", snapshot.directory, directory]
        subprocess.run(command, check=True)
        return replace(
            snapshot,
            directory=directory,
            boot=UefiBoot(directory / installed.VARIABLES),
            disks=(replace(snapshot.disks[0], path=directory / installed.DISK), *snapshot.disks[1:]),
            restore=directory / "saved",
        )

    return make


@pytest.fixture(scope="session")
def shell(continued: NewMachine, boot: Boot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A running instrumented machine, to be asked. Leave it as it is."""
    with boot(continued(tmp_path_factory.mktemp("shell"))) as machine:
        yield Shell(machine)


@pytest.fixture(scope="session")
def recovery_key(release: Path, sandbox: Sandbox, keys: ProductKeys) -> bytes:
    """The recovery key of the built machine, decrypted with the escrow key."""
    report = installed.read_report(release / "machine" / installed.REPORT)
    sealed = next(step["evidence"] for step in report["steps"] if step["step"] == "seal state")
    command = ["age", "--decrypt", "--identity", "/run/identity"]
    binds = [Bind(keys.private("escrow"), "/run/identity")]
    return sandbox.run(command, binds=binds, stdin=sealed["recovery_key"].encode()).stdout_bytes


@pytest.fixture
def bare(sandbox: Sandbox, keys: ProductKeys, tmp_path: Path) -> NewMachine:
    """A machine with the product's Secure Boot keys that boots an EFI binary from a medium and has nothing else."""

    def make(binary: Path) -> MachineSpec:
        directory = _directory(tmp_path)
        create_vars(sandbox, directory / installed.VARIABLES, keys=installed.secure_boot_keys(keys))
        installed.write_boot_medium(sandbox, binary, directory / "boot.vfat")
        medium = Disk(directory / "boot.vfat", readonly=True, serial="boot", bootindex=0)
        return MachineSpec("bare", directory, UefiBoot(directory / installed.VARIABLES), disks=(medium,))

    return make


def _directory(tmp_path: Path) -> Path:
    directory = tmp_path / "machine"
    directory.mkdir()
    return directory


@pytest.fixture(scope="session")
def work(release: Path) -> Path:
    """Where the build keeps what the release was made from."""
    return release.parent / "work" / release.name


@pytest.fixture(scope="session")
def unsigned(manifest: dict[str, Any], work: Path) -> Path:
    """The UKI of the release before it was signed."""
    path = work / f"{manifest['uki']['file']}.unsigned"
    assert path.exists(), f"{path} is missing: build the release again"
    return path


@pytest.fixture
def relink(manifest: dict[str, Any], work: Path, keys: ProductKeys, sandbox: Sandbox, tmp_path: Path) -> Relink:
    """Join kernel and initrd of the release with a longer command line, then sign.

    The policy on PCR 11 is signed with the product's own key in any case; ``signer`` signs for Secure Boot.
    """

    def make(words: Sequence[str], signer: ProductKeys) -> Path:
        request = uki.UkiRequest(
            linux=work / "vmlinuz",
            initrd=work / "system.initrd",
            command_line=[*manifest["uki"]["command_line"].split(), *words],
            os_release=(work / "layer/upper/usr/lib/os-release").read_text("utf-8"),
            uname=manifest["uki"]["kernel"],
            pcr_keys=[(keys.reference("pcr"), keys.directory / "pcr.pub")],
            pcr_public=keys.directory / "pcr.pub",
        )
        joined, signed = tmp_path / "joined.efi", tmp_path / "signed.efi"
        uki.build(sandbox, request, joined, epoch=manifest["source_date_epoch"], log=tmp_path / "uki.log")
        signing.sign_pe(sandbox, joined, signed, signer.reference("db"), signer.public("db"))
        return signed

    return make


@pytest.fixture
def replace_uki(manifest: dict[str, Any], sandbox: Sandbox) -> Callable[[MachineSpec, Path], None]:
    """Put another UKI in the place of the installed one on the EFI system partition."""

    def put(spec: MachineSpec, new: Path) -> None:
        disk = spec.disks[0].path
        image = f"/run/disk/{disk.name}@@{partitions(disk)[0].offset}"
        binds = [Bind(disk.parent, "/run/disk", writable=True), Bind(new, "/run/uki")]
        sandbox.run(["mcopy", "-o", "-i", image, "/run/uki", f"::EFI/Linux/{manifest['uki']['file']}"], binds=binds)

    return put
