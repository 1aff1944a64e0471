# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbook provision, with the real enrolment service and machines that do what an installer does."""

from __future__ import annotations

import copy
import io
import json
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import power
import pytest
import redfish
from certificates import DAY, NOW
from cryptography import x509
from enrolment import Tpm
from provisioned import PASSPHRASE, SITE, InstalledMachine, Site
from sdk import SDK

from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox
from ansible_collections.vauban.fleet.plugins.plugin_utils._site import load
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.pki import state


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(tmp_path, stack)


def fail(site: Site, *options: str) -> str:
    """A run that has to end before anything is told to anybody, with one error that says what to do."""
    done = site.play("provision", *options)
    said = done.stdout + done.stderr
    assert done.returncode != 0, said
    assert said.count("Remedy: ") - said.count("[WARNING]") == 1, said
    assert "Traceback" not in said
    assert site.server.admin.get("/admin/v1/machines").json() == {"hosts": [], "others": []}
    return said


def test_machine_becomes_its_host_and_stays_it(site: Site) -> None:
    machine = site.machine("one")
    machine.start()  # before the server knows its host
    done = site.play("provision", "--limit", "one", "-vv")
    assert done.returncode == 0, done.stdout + done.stderr
    machine.done()
    assert site.report()["complete"]
    assert site.report()["hosts"]["one"]["state"] == "installed"
    assert machine.installation["disk"] == {"transport": "nvme"}
    assert machine.installation["sizes"] == {"core_size": 1 << 30}
    leaf, issuing, _root = machine.certificates()
    leaf.verify_directly_issued_by(site.issuing.certificate)
    assert issuing == site.issuing.certificate
    assert leaf == x509.load_pem_x509_certificate((site.pki / "hosts/one.pem").read_bytes())
    (kept,) = state.host_certificates(load.read(site.file).plan, site.pki, ["one"], days=30)
    assert (kept.state, kept.reason) == (state.VALID, "")
    with tarfile.open(fileobj=io.BytesIO(machine.configuration)) as archive:
        names = archive.getnames()
    assert {"etc/swanctl/x509ca/issuing.pem", "etc/swanctl/x509crl/issuing.crl"} <= set(names)
    assert PASSPHRASE not in site.printed
    before = site.server.log()
    again = site.play("provision", "--limit", "one")
    assert again.returncode == 0, again.stdout
    assert "changed" not in again.stdout.partition("Tell the server")[2], again.stdout
    assert site.server.log() == before


def test_one_that_fails_blocks_no_other_and_a_rerun_goes_on(site: Site) -> None:
    """In two waves: the second host fails, and the third, which comes while the first two do, has to be approved."""
    failing, good = site.machine("two", until="failed"), site.machine("one", after=1)
    stranger = site.machine("three", tpm=Tpm("three"))
    for each in (failing, good, stranger):
        each.start()
    done = site.play("provision", "--limit", "one,two,three", "-e", "provision_patience=8", "-e", "provision_wave=2")
    assert done.returncode == 2, done.stdout + done.stderr
    good.done()
    failing.done()
    assert "2 of 3 hosts are missing: two, three" in done.stdout
    assert f"no host yet: {stranger.machine.id}: Example R1, hardware profile example_r1, serial S3" in done.stdout
    hosts = site.report()["hosts"]
    assert {name: hosts[name]["state"] for name in hosts} == {"one": "installed", "two": "failed", "three": "waiting"}
    assert hosts["two"]["line"] == "doing failed"
    assert hosts["three"]["class"] == "software_tpm"
    (waiting,) = site.report()["quarantine"]
    assert waiting["id"] == stranger.machine.id
    again = site.machine("two", after=3)
    again.start()
    approval = json.dumps({stranger.machine.id: "three"})
    done = site.play("provision", "--limit", "one,two,three", "-e", f"approve='{approval}'")
    assert done.returncode == 0, done.stdout + done.stderr
    again.done()
    stranger.done()
    assert site.report()["complete"]
    assert site.report()["quarantine"] == []


def test_run_that_was_stopped_is_resumed(site: Site) -> None:
    """It ends before the machine has come, which then waits for its certificate; another run signs it, and once."""
    machine = site.machine("one")
    done = site.play("provision", "--limit", "one", "-e", "provision_patience=0")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "1 of 1 hosts are missing: one" in done.stdout
    machine.start()
    machine.wait_for_signature()
    done = site.play("provision", "--limit", "one")
    assert done.returncode == 0, done.stdout + done.stderr
    machine.done()
    assert not list((site.pki / "replaced").iterdir())


def test_check_mode_tells_nobody(site: Site) -> None:
    done = site.play("provision", "--limit", "one", "--check", "--diff")
    assert done.returncode == 0, done.stdout + done.stderr
    assert '+  "admit": "listed"' in done.stdout
    assert site.server.admin.get("/admin/v1/machines").json() == {"hosts": [], "others": []}
    assert not (site.root / "configurations").exists()
    assert not site.report_path.exists()


def test_host_is_installed_again_only_if_that_is_said(site: Site) -> None:
    first = site.machine("one")
    first.start()
    assert site.play("provision", "--limit", "one").returncode == 0
    first.done()
    second = site.machine("one", after=10)
    second.start()
    done = site.play("provision", "--limit", "one", "-e", "reinstall=true")
    assert done.returncode == 0, done.stdout + done.stderr
    second.done()
    assert second.certificates()[0] != first.certificates()[0]
    assert [path.name.partition(".")[0] for path in (site.pki / "replaced").iterdir()] == ["one"]
    third = site.machine("one")
    third.start()
    third.join(10)
    assert site.server.last()["detail"]["reason"] == "one is installed, and reinstall is not set"


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        ("signature", "manifest.json: "),
        ("core", "core.erofs: "),
        ("unpublished", "the server offers no release server/1.0"),
        ("key", "the key of the issuing authority is not here"),
        ("lists", "crl/root.crl: is not there"),
        ("old lists", "crl/issuing.crl: has ended"),
        ("service", "the service does not answer"),
        ("machine", "none of these hosts is installed over the network"),
        ("release", "no release of server 2.0; there are server/1.0"),
    ],
)
def test_what_can_be_checked_is_checked_before(site: Site, break_it: str, said: str) -> None:
    limit, options = "one", []
    if break_it == "signature":
        (site.release / "manifest.json").write_text((site.release / "manifest.json").read_text() + " ")
    elif break_it == "core":
        (site.release / "core.erofs").write_text("another")
    elif break_it == "unpublished":
        (site.root / "releases/server/1.0").unlink()
    elif break_it == "key":
        (site.keys / "sites/small/issuing.key").unlink()
    elif break_it == "lists":
        (site.pki / "crl/root.crl").unlink()
    elif break_it == "old lists":
        (site.pki / "crl/issuing.crl").write_bytes(site.issuing.revocations(until=NOW - DAY))
    elif break_it == "service":
        options = ["-e", f"provision_socket={site.directory}/nothing.sock"]
    elif break_it == "machine":
        limit = "gateway"
    elif break_it == "release":
        changed: dict[str, Any] = copy.deepcopy(SITE)
        changed["provisioning"]["releases"] = {"server": "2.0"}
        site.write(changed)
    assert said in fail(site, "--limit", limit, *options)


def test_request_for_another_name_ends_that_machine_only(site: Site) -> None:
    """The service judged it by what it was told before the site got another domain."""
    machine, other = site.machine("one", until="escrowed"), site.machine("two")
    assert site.play("provision", "--limit", "one", "-e", "provision_patience=0").returncode == 2
    machine.start()
    machine.wait_for_signature()
    changed: dict[str, Any] = copy.deepcopy(SITE)
    changed["domain"] = "another.example"
    changed["provisioning"]["server"] = "https://boot.another.example"
    site.write(changed)
    other.start()
    done = site.play("provision", "--limit", "one,two", "-e", "provision_patience=10")
    assert done.returncode == 2, done.stdout
    assert "one: its request is for" in done.stdout
    assert site.report()["hosts"]["one"]["state"] == "refused"
    assert not (site.pki / "hosts/one.pem").exists()


def test_machines_with_power_controllers_start_by_themselves(site: Site, tmp_path: Path) -> None:
    """The first start fails and is tried again; the controller of another machine refuses, which blocks nobody."""
    machines = [site.machine("one", until="failed"), site.machine("one")]
    waiting = iter(machines)
    controller = redfish.Controller(lambda: next(waiting).start())
    with redfish.serve(controller, tmp_path) as authority:
        changed: dict[str, Any] = copy.deepcopy(SITE)
        changed["hosts"]["one"]["machine"]["bmc"] = {"address": controller.url}
        changed["hosts"]["two"]["machine"]["bmc"] = {"address": "https://127.0.0.1:9"}
        site.write(changed)
        secrets = {"provision_bmc_user": redfish.USER, "provision_bmc_password": redfish.PASSWORD}
        (tmp_path / "secrets.json").write_text(json.dumps(secrets))
        words = ["-e", f"@{tmp_path}/secrets.json", "-e", f"provision_bmc_authority={authority}"]
        done = site.play("provision", "--limit", "one,two", "--check", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "https://127.0.0.1:9 does not answer" in done.stdout
        assert f"{controller.url} does not answer" not in done.stdout
        assert controller.resets == []
        done = site.play("provision", "--limit", "one,two", "-e", "provision_patience=8", *words, "-vvv")
        assert done.returncode == 2, done.stdout + done.stderr
    machines[1].done()
    assert controller.resets == ["On", "ForceRestart"]
    assert controller.boot["BootSourceOverrideTarget"] == "UefiHttp"
    assert site.report()["hosts"]["one"]["state"] == "installed"
    assert site.report()["hosts"]["two"]["state"] == "waiting"
    assert "https://127.0.0.1:9: Look for its system: " in site.report()["hosts"]["two"]["problem"]
    assert "Switch on, with the network as boot source: two" in done.stdout
    assert redfish.PASSWORD not in site.printed
    assert PASSPHRASE not in site.printed


class Started:
    """A machine that enrols when it is started from the network."""

    def __init__(self, machine: InstalledMachine) -> None:
        self._machine, self.on = machine, False

    def start(self, *, network: bool) -> None:
        self.on = True
        if network:
            self._machine.start()

    def stop(self) -> None:
        self.on = False


def test_several_machines_behind_one_power_controller(site: Site, tmp_path: Path) -> None:
    """By a Redfish service that is not ours. A host that does not say which system it is starts none."""
    machines = {name: site.machine(name) for name in ("one", "two")}
    rack = {f"bay-{name}": Started(machine) for name, machine in machines.items()}
    with power.controller(rack, tmp_path) as controller:
        changed: dict[str, Any] = copy.deepcopy(SITE)
        for name in machines:
            changed["hosts"][name]["machine"]["bmc"] = {"address": controller.url, "system": f"bay-{name}"}
        changed["hosts"]["three"]["machine"]["bmc"] = {"address": controller.url}
        site.write(changed)
        secrets = {"provision_bmc_user": redfish.USER, "provision_bmc_password": redfish.PASSWORD}
        (tmp_path / "secrets.json").write_text(json.dumps(secrets))
        words = ["-e", f"@{tmp_path}/secrets.json", "-e", f"provision_bmc_authority={controller.authority}"]
        done = site.play("provision", "--limit", "one,two,three", "-e", "provision_patience=8", *words)
    assert done.returncode == 2, done.stdout + done.stderr
    for machine in machines.values():
        machine.done()
    hosts = site.report()["hosts"]
    assert [hosts[name]["state"] for name in ("one", "two", "three")] == ["installed", "installed", "waiting"]
    assert "2 systems fit" in hosts["three"]["problem"]
    assert "/redfish/v1/Systems/bay-one" in hosts["three"]["problem"]


@pytest.fixture
def age(tmp_path: Path) -> Callable[..., str]:
    """Run age of the SDK; files are below /run/out."""
    (tmp_path / "scratch").mkdir()
    (tmp_path / "age").mkdir()
    sandbox = Sandbox(SDK, tmp_path / "scratch")

    def run(*command: str, stdin: bytes = b"") -> str:
        return sandbox.run(command, binds=[Bind(tmp_path / "age", "/run/out", writable=True)], stdin=stdin).stdout

    return run


def test_officer_gets_back_the_key_of_one_machine(site: Site, age: Callable[..., str], tmp_path: Path) -> None:
    for name in ("officer", "stranger"):
        age("age-keygen", "-o", f"/run/out/{name}")
    recipient = age("age-keygen", "-y", "/run/out/officer").strip()
    secret = "-".join(["cbdefghi"] * 8)
    encrypted = age("age", "--encrypt", "--armor", "--recipient", recipient, stdin=secret.encode())
    site.encrypt_to(recipient)
    machine = site.machine("one", recovery_key=encrypted)
    machine.start()
    assert site.play("provision", "--limit", "one").returncode == 0
    machine.done()
    dest = tmp_path / "one.key"
    words = ["-e", "recover=one", "-e", f"provision_recover_path={dest}", "-vvv"]
    done = site.play("recover", *words, "-e", f"identity={tmp_path}/age/stranger")
    assert done.returncode == 2
    assert f"it is encrypted to {recipient}" in done.stdout
    assert not dest.exists()
    done = site.play("recover", *words, "-e", f"identity={tmp_path}/age/officer")
    assert done.returncode == 0, done.stdout + done.stderr
    assert dest.read_text() == secret
    assert dest.stat().st_mode & 0o777 == 0o600
    assert secret not in site.printed
    assert "AGE-SECRET-KEY" not in site.printed
    assert (site.server.last()["action"], site.server.last()["host"]) == ("escrow read", "one")
    done = site.play("recover", *words, "-e", f"identity={tmp_path}/age/officer")
    assert done.returncode == 2
    assert "one.key: is there already" in done.stdout


def test_host_that_is_retired_is_nobody_any_more(site: Site) -> None:
    machine = site.machine("one")
    machine.start()
    assert site.play("provision", "--limit", "one").returncode == 0
    machine.done()
    assert site.play("retire", "-e", "reason=sold").returncode != 0, "no host was named"
    words = ["--limit", "one", "-e", "reason=sold"]
    done = site.play("retire", *words, "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert site.server.last()["action"] == "installed"
    done = site.play("retire", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    serial = machine.certificates()[0].serial_number
    revoked = x509.load_pem_x509_crl((site.pki / "crl/issuing.crl").read_bytes())
    assert revoked.get_revoked_certificate_by_serial_number(serial) is not None
    assert not (site.pki / "hosts/one.pem").exists()
    again = site.machine("one")
    again.start()
    deadline = time.monotonic() + 10
    while site.server.last()["action"] != "quarantined":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert site.server.admin.get("/admin/v1/escrows/one").json()
    done = site.play("retire", *words)
    assert done.returncode == 0, done.stdout
    assert "nothing had to be done" in done.stdout


def test_disks_of_retired_hosts_are_erased_by_their_own_machines(site: Site) -> None:
    """One by its power controller; that of the other starts too late, and the same command goes on."""
    first, second = site.machine("one"), site.machine("two")
    for each in (first, second):
        each.start()
    assert site.play("provision", "--limit", "one,two").returncode == 0
    first.done()
    second.done()
    words = ["--limit", "one,two", "-e", "reason=sold", "-e", "wipe=true"]
    done = site.play("retire", *words, "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert site.server.last()["action"] == "installed"
    again = site.machine("one", once=lambda: site.server.admin.get("/admin/v1/machines/one").json()["wipe"])
    again.start()
    done = site.play("retire", *words, "-e", "provision_patience=15")
    assert done.returncode == 2, done.stdout + done.stderr
    again.done()
    assert again.machine.state() == "wiped"
    assert "two. Their disks will be erased" in done.stdout
    assert "1 of 2 disks are not erased: two" in done.stdout
    assert "switch it on; its disk will be erased" in done.stdout
    late = site.machine("two")
    late.start()
    done = site.play("retire", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    late.done()
    assert late.machine.state() == "wiped"
    before = site.server.log()
    done = site.play("retire", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing had to be done" in done.stdout
    assert site.server.log() == before
    stranger = site.machine("one")
    stranger.start()
    deadline = time.monotonic() + 10
    while site.server.last()["action"] != "quarantined":
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_order_to_erase_a_disk_is_taken_back(site: Site) -> None:
    machine = site.machine("one")
    machine.start()
    assert site.play("provision", "--limit", "one").returncode == 0
    machine.done()
    words = ["--limit", "one", "-e", "reason=sold"]
    assert site.play("retire", *words, "-e", "wipe=true", "-e", "provision_patience=0").returncode == 2
    done = site.play("retire", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert site.server.admin.get("/admin/v1/machines/one").json()["wipe"], "it stays as it was said"
    done = site.play("retire", *words, "-e", "wipe=false")
    assert done.returncode == 0, done.stdout + done.stderr
    assert site.server.last()["action"] == "wipe withdrawn"
    assert site.server.admin.get("/admin/v1/machines/one").json()["wipe"] is None
