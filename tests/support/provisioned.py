# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small site with everything that its machines are installed from, and machines that are installed.

The enrolment service is the real one, in the process of the test; playbooks reach its administrators' socket. Only the
TPMs and the disks are not there.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import uvicorn
import yaml
from certificates import P256, Authority, ec_key
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from enrolment import FakeVerifier, Machine, Tpm, age_file
from enrolment_apps import Server
from playing import ansible_playbook
from signers import write_signers

from ansible_collections.vauban.fleet.plugins.module_utils._boot import uki
from ansible_collections.vauban.fleet.plugins.module_utils._image import manifest
from ansible_collections.vauban.fleet.plugins.module_utils._image.core import Verity
from ansible_collections.vauban.fleet.plugins.module_utils._image.lock import Lock, Package, Release
from ansible_collections.vauban.fleet.plugins.module_utils._image.manifest import Artifact, State, Uki
from vauban_enrolment.service import now
from vauban_enrolment.verifier import Verifier

ROOT = Path(__file__).resolve().parents[2]
PASSPHRASE = "passphrase of the issuing"
RECIPIENTS = ["age1" + "q" * 58, "age1" + "p" * 58]
_UNTOUCHED = "0" * 64
SITE: dict[str, Any] = {
    "site": "small",
    "domain": "small.example",
    "provisioning": {
        "server": "https://boot.small.example",
        "disk": {"transport": "nvme"},
        "sizes": {"core_size": 1 << 30},
    },
    "places": {
        "here": {
            "number": 1,
            "networks": {"outer": {"ipv4": "192.0.2.0/24"}},
            "gateways": {"hosts": ["gateway"], "addresses": ["192.0.2.2"]},
        }
    },
    "tunnels": {"admin": {"if_id": 1, "pool": {"ipv4": "10.1.0.0/16"}, "peers": ["everyone"]}},
    "zones": {
        "everyone": {"products": ["server"]},
        "machines": {"products": ["server", "gateway"]},
        "collectors": {"hosts": ["logs"]},
    },
    "services": {"logs": {"tcp": [2514], "user": "_rsyslog"}},
    "policy": [{"from": ["machines"], "to": ["collectors"], "services": ["logs"], "via": "admin"}],
    "logs": {"collectors": ["logs"], "via": "admin", "service": "logs"},
    "hosts": {
        "gateway": {
            "product": "gateway",
            "place": "here",
            "number": 3,
            "interfaces": {"outer": {"mac": "52:54:00:00:00:02"}},
        },
        "logs": {
            "product": "server",
            "place": "here",
            "number": 10,
            "interfaces": {"outer": {"mac": "52:54:00:00:00:0a"}},
        },
        "one": {
            "product": "server",
            "place": "here",
            "number": 20,
            "interfaces": {"outer": {"mac": "52:54:00:00:00:14"}},
            "machine": {"ek_sha256": Tpm("one").sha256, "serial": "S1"},
        },
        "two": {
            "product": "server",
            "place": "here",
            "number": 21,
            "interfaces": {"outer": {"mac": "52:54:00:00:00:15"}},
            "machine": {"ek_sha256": Tpm("two").sha256, "serial": "S2"},
        },
        "three": {
            "product": "server",
            "place": "here",
            "number": 22,
            "interfaces": {"outer": {"mac": "52:54:00:00:00:16"}},
            "machine": {"class": "software_tpm", "hardware_profile": "touch_panel"},
        },
    },
}
MACS = {name: str(SITE["hosts"][name]["interfaces"]["outer"]["mac"]) for name in ("one", "two", "three")}


def write_release(directory: Path, keys: Path, product: str = "server", version: str = "1.0") -> Path:
    """A release with a whole manifest, signed."""
    digest = "a" * 64
    directory.mkdir(parents=True)

    def artifact(name: str, kind: str = "application/octet-stream") -> Artifact:
        (directory / name).write_bytes(f"{name} of {product}".encode())
        return Artifact(name, *_size_and_digest(directory / name), kind)

    def image(name: str, *ways: str) -> Uki:
        pcr4 = {way: _measured(f"{name} {way}") for way in ways}
        pcr11 = {phase: _measured(f"{name} {phase}") for phase in uki.PHASES}
        return Uki(artifact(name), digest, digest, b"der", [digest], "6.12.1", "ro", pcr4, pcr11)

    archive = Release("trixie", "debian", "2026-09-12T07:55:41+00:00", digest)
    package = Package("bash", "1", "amd64", "bash=1", "debian", "pool/bash_1_amd64.deb", 1, digest, (product,))
    lock = Lock("amd64", (archive,), (package,))
    made = manifest.build_manifest(
        product=product, version=version, security_epoch=1, instrumentation=(), key_kind="development", lock=lock,
        lock_sha256=digest, packages=manifest.kept_packages(lock, {"bash": "1"}), core=artifact("core.erofs"),
        core_format="erofs", verity=Verity(digest, 4096, 8192, 2, 12288),
        uki=image(f"{product}_{version}.efi", "boot_loader", "direct"),
        installer=image(f"{product}_{version}_installer.efi", "direct"), bundle=artifact("bundle.raucb"),
        boot_loader=artifact("systemd-bootx64.efi"),
        volume_group="fleet",
        state=State(({"path": "/var", "kind": "directory", "mode": "0755"},), (7, 12), "-----BEGIN PUBLIC KEY-----\n"),
        recipients=RECIPIENTS, certificates=dict.fromkeys(("release", "root", "db"), digest),
        sbom=artifact("sbom.cdx.json"), provenance=artifact("provenance.intoto.json"), origin=artifact("origin.json"),
    )  # fmt: skip
    (directory / "manifest.json").write_text(json.dumps(made))
    _sign(directory / "manifest.json", keys / product)
    return directory


def _measured(word: str) -> str:
    """What a register holds that was extended with this word only."""
    return hashlib.sha256(bytes(32) + hashlib.sha256(word.encode()).digest()).hexdigest()


# What a machine measures when it starts the installer of :func:`write_release`, and what when it starts from its disk.
INSTALLER_WORDS = {4: "server_1.0_installer.efi direct", 11: "server_1.0_installer.efi enter-initrd"}
INSTALLED_WORDS = {4: "server_1.0.efi boot_loader", 11: "server_1.0.efi ready"}


def _size_and_digest(path: Path) -> tuple[int, str]:
    return path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()


def _sign(path: Path, keys: Path) -> None:
    if not keys.exists():
        write_signers(keys)
    words = ["-sign", "-binary", "-md", "sha256", "-nosmimecap", "-outform", "DER", "-in", str(path)]
    words += ["-signer", str(keys / "release.crt"), "-inkey", str(keys / "release.key")]
    _openssl("cms", *words, "-out", f"{path}.p7s")


def _openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)


def write_pki(directory: Path, keys: Path) -> Authority:
    """Authorities and lists, as playbook site_pki leaves them; the issuing authority is returned."""
    root = Authority.root("small root authority", ec_key(P256))
    issuing = root.issuing("small issuing authority", ec_key(P256))
    for part in ("ca", "crl", "hosts", "nts", "replaced", "revoked"):
        (directory / part).mkdir(parents=True)
    for name, authority in (("root", root), ("issuing", issuing)):
        (directory / "ca" / f"{name}.pem").write_bytes(authority.pem)
        (directory / "crl" / f"{name}.crl").write_bytes(authority.revocations())
    keys.mkdir(parents=True)
    form = serialization.PrivateFormat.PKCS8
    protection = serialization.BestAvailableEncryption(PASSPHRASE.encode())
    (keys / "issuing.key").write_bytes(issuing.key.private_bytes(serialization.Encoding.PEM, form, protection))
    (keys / "issuing.key").chmod(0o600)
    return issuing


class Site:
    """The site: its inventory, its server and the service on it."""

    def __init__(self, directory: Path, stack: ExitStack, verifier: Verifier | None = None) -> None:
        self.directory = directory
        self.inventory = directory / "inventory"
        self.file = self.inventory / "small.site.yml"
        self.pki = self.inventory / "pki"
        self.root = directory / "srv"
        self.keys = directory / "keys"
        self.report_path = directory / "report.json"
        self.printed = ""
        self.inventory.mkdir()
        self.write(SITE)
        self.issuing = write_pki(self.pki, self.keys / "sites/small")
        self.release = write_release(directory / "release", self.keys)
        published = self.root / "releases/server/1.0"
        published.parent.mkdir(parents=True)
        published.symlink_to(self.release)
        self.server = Server(directory / "enrolment.sqlite", stack, [], verifier or FakeVerifier())
        self.server.clock = now  # type: ignore[assignment]
        self.server.start()
        self.socket = directory / "admin.sock"
        stack.enter_context(_served(self.server, self.socket))
        variables = {
            "fleet_keys_dir": str(self.keys),
            "fleet_build_dir": str(ROOT / "build"),
            "fleet_sites_dir": str(directory / "sites"),
            "site_pki_issuing_passphrase": PASSPHRASE,
            "provision_socket": str(self.socket),
            "provision_root": str(self.root),
            "provision_report_path": str(self.report_path),
            "provision_pause": 1,
            "provision_grace": 2,
            "provision_patience": 40,
        }
        boot = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "boot_server_releases": [str(self.release)],
        }
        servers = {"provisioning_servers": {"hosts": {"boot": boot}}}
        content = {"all": {"children": servers, "vars": variables}}
        (self.inventory / "hosts.yml").write_text(yaml.safe_dump(content))

    def encrypt_to(self, *recipients: str, threshold: int = 1) -> None:
        """Let the release have other officers."""
        escrow = {"recipients": recipients, **({"threshold": threshold} if threshold > 1 else {})}
        (self.release / "manifest.json").write_text(json.dumps({**self.manifest, "escrow": escrow}))
        _sign(self.release / "manifest.json", self.keys / "server")

    def write(self, site: Mapping[str, Any]) -> None:
        """Give the site another model."""
        self.file.write_text(yaml.safe_dump(dict(site), sort_keys=False))

    @property
    def manifest(self) -> dict[str, Any]:
        return dict(json.loads((self.release / "manifest.json").read_text()))

    def play(self, name: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Run a playbook; all that it prints is remembered."""
        words = ["-i", str(self.inventory), str(ROOT / f"playbooks/{name}.yml"), *options]
        done = ansible_playbook(self.directory, *words, ANSIBLE_CONFIG=str(ROOT / "ansible.cfg"))
        self.printed += done.stdout + done.stderr
        return done

    def report(self) -> dict[str, Any]:
        """What the last run has written."""
        return dict(json.loads(self.report_path.read_text()))

    def machine(self, host: str, **changes: Any) -> InstalledMachine:
        """The machine of a host."""
        number = ("one", "two", "three").index(host) + 1
        values = {"tpm": Tpm(host), "serial": f"S{number}", "mac": MACS[host], "address": f"192.0.2.{number}"}
        return InstalledMachine(self, host, **{**values, **changes})


class InstalledMachine(threading.Thread):
    """A machine from power-on to its first boot from the disk, as the installer and the host would do it; or one that
    is told to repair, to back up or to erase its disk, and does.

    :param after: seconds after which it is switched on.
    :param start: called with what it measures when it starts.
    :param unlock: has its disk opened, if that is kept.
    :param back_up: sends its data, and gives evidence of it.
    :param once: true as soon as it is switched on.
    :param recovery_key: what it gives into escrow, with ``shared`` if it takes several officers.
    :param until: the last state it brings itself to; ``failed`` reports a failure while it installs.
    """

    def __init__(
        self,
        site: Site,
        host: str,
        *,
        until: str = "installed",
        after: float = 0,
        once: Callable[[], Any] = lambda: True,
        start: Callable[[Mapping[int, str]], Any] = lambda _words: None,
        unlock: Callable[[InstalledMachine], None] | None = None,
        back_up: Callable[[InstalledMachine], Mapping[str, Any]] | None = None,
        recovery_key: str | None = None,
        shared: Mapping[str, Any] | None = None,
        **values: Any,
    ) -> None:
        super().__init__(daemon=True)
        found = site.manifest
        digest = hashlib.sha256((site.release / "manifest.json").read_bytes()).hexdigest()
        self.predicted = {
            "installer": _registers(found["installer"]["pcr"], "direct", "enter-initrd"),
            "installed": _registers(found["uki"]["pcr"], "boot_loader", "ready"),
        }
        release = {"product": "server", "version": "1.0", "manifest_sha256": digest}
        self.site, self.host, self.until, self.after, self.once = site, host, until, after, once
        self.start_with, self.unlock, self.back_up = start, unlock, back_up
        self.machine = Machine(site.server, release=release, predicted=self.predicted, **values)
        self.recovery_key = recovery_key or age_file()
        self.shared = shared
        self.installation: dict[str, Any] = {}
        self.chain = b""
        self.configuration = b""
        self.fault: BaseException | None = None

    def run(self) -> None:
        time.sleep(self.after)
        self._wait(self.once)
        try:
            self._run()
        except BaseException as exc:
            self.fault = exc

    def done(self) -> InstalledMachine:
        """Wait for it; what went wrong with it goes wrong here."""
        self.join(60)
        if self.fault is not None:
            raise self.fault
        assert not self.is_alive(), f"{self.host} hangs"
        return self

    def _run(self) -> None:
        machine = self.machine
        self.start_with(INSTALLER_WORDS)
        answer = machine.apply()
        if answer.status_code != 201:
            return
        self._wait(lambda: machine.state() != "quarantined")
        if machine.state() == "challenged":
            assert machine.prove().status_code == 200
        if machine.state() == "wiping":
            assert machine.begin_wipe().status_code == 204
            assert machine.wiped().status_code == 204
            return
        if machine.state() == "repairing":
            assert machine.own("GET", "/repair").status_code == 200
            if self.unlock is not None:
                self.unlock(self)
            done: dict[str, Any] = {name: {} for name in ("header", "file_system", "core", "boot")}
            assert machine.report("repaired", manifest_sha256=machine.release["manifest_sha256"], **done).is_success
            return
        if machine.state() == "backing_up" and self.back_up is not None:
            evidence = self.back_up(self)
            manifest = machine.release["manifest_sha256"]
            assert machine.report("backed_up", manifest_sha256=manifest, **evidence).is_success
            return
        kept = machine.state() == "keeping"
        self.installation = machine.own("GET", "/keeping" if kept else "/installation").json()
        machine.report("partition")
        if kept and self.unlock is not None:
            self.unlock(self)
        if self.until == "failed":
            machine.report("failed")
            return
        told = self.installation["configuration"]
        # nginx gives it out; here it is read where nginx would.
        self.configuration = (self.site.root / "configurations" / told["url"].rpartition("/")[2]).read_bytes()
        assert hashlib.sha256(self.configuration).hexdigest() == told["sha256"]
        recipients = self.installation["escrow"]["recipients"]
        for wanted in self.installation["certificates"]:
            self._certify(wanted)
        body = machine.escrow_body(recipients=recipients, recovery_key=self.recovery_key)
        if self.shared is not None:
            body["shared"] = self.shared
        assert machine.escrow(body).status_code == 200
        if self.until == "escrowed":
            return
        assert machine.written(manifest_sha256=machine.release["manifest_sha256"]).status_code == 204
        if self.until == "written":
            return
        self.start_with(INSTALLED_WORDS)
        assert machine.attest().status_code == 200

    def _certify(self, wanted: Mapping[str, Any]) -> None:
        request = self.machine.request(subject=wanted["subject"], dns=wanted["dns"], usages=wanted["usages"])
        headers = {"Content-Type": "application/x-pem-file"}
        sent = self.machine.own("PUT", f"/requests/{wanted['name']}", content=request, headers=headers)
        assert sent.status_code == 202, sent.text
        self._wait(lambda: self.machine.fetch(wanted["name"]).status_code == 200)
        self.chain = self.machine.fetch(wanted["name"]).content

    def wait_for_signature(self) -> None:
        """Until it has asked for a certificate, and nobody has signed it yet."""
        self._wait(lambda: self.site.server.admin.get("/admin/v1/requests").json())

    def certificates(self) -> list[x509.Certificate]:
        return x509.load_pem_x509_certificates(self.chain)

    @staticmethod
    def _wait(true: Any) -> None:
        end = time.monotonic() + 180
        while not true():
            assert time.monotonic() < end
            time.sleep(0.2)


def _registers(pcr: Mapping[str, Mapping[str, str]], way: str, phase: str) -> dict[str, str]:
    return {"4": pcr["4"][way], "11": pcr["11"][phase], "12": _UNTOUCHED, "13": _UNTOUCHED}


@contextmanager
def _served(server: Server, path: Path) -> Iterator[None]:
    """The administrators' side on a socket, in a thread."""
    settings = uvicorn.Config(server.admin.app, uds=str(path), log_config=None, lifespan="off", ws="none")
    running = uvicorn.Server(settings)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    end = time.monotonic() + 10
    while not running.started:
        assert time.monotonic() < end
        time.sleep(0.02)
    try:
        yield
    finally:
        running.should_exit = True
        thread.join(10)
