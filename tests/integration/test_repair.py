# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbook repair: a host that does not start is repaired, with a recovery key that two officers open for it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from endorsement import Ends
from provisioned import ROOT, InstalledMachine, Site
from sdk import SDK
from tpm_machines import Tpm, machines, site_of

from ansible_collections.vauban.fleet.plugins.module_utils._command import Completed
from ansible_collections.vauban.fleet.plugins.module_utils._install import keeping
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._tpm.binding import qualifying_data

pytestmark = pytest.mark.skipif(not SDK.exists(), reason=f"no SDK at {SDK}: run 'make build' or set FLEET_SDK")

KEY = "-".join(["cbdefghi"] * 8)
SHARE = """
import json, sys
from ansible_collections.vauban.fleet.plugins.module_utils._install import sharing
asked = json.load(sys.stdin)
json.dump(sharing.share(asked["key"].encode(), asked["recipients"], 2), sys.stdout)
"""


@pytest.fixture(scope="module")
def both(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ends]:
    with machines(sandbox, tmp_path_factory.mktemp("tpm"), {"one": None, "thief": None}) as started:
        yield started


@pytest.fixture
def site(both: Ends, tmp_path: Path) -> Iterator[Site]:
    with site_of(both, tmp_path) as made:
        yield made


@pytest.fixture
def run(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Completed]:
    library = "/run/lib/ansible_collections/vauban/fleet/plugins/module_utils"

    def call(argv: Sequence[Any], stdin: bytes = b"") -> Completed:
        binds = [Bind(tmp_path, str(tmp_path)), Bind(ROOT / "plugins/module_utils", library)]
        return sandbox.run(argv, binds=binds, env={"PYTHONPATH": "/run/lib"}, stdin=stdin)

    monkeypatch.setattr(keeping, "run", call)
    return call


@pytest.fixture
def officers(run: Callable[..., Completed], tmp_path: Path) -> dict[str, str]:
    """Identities by recipient."""
    made = {}
    for name in ("ada", "ben", "cleo"):
        text = run(["age-keygen"]).stdout
        (tmp_path / name).write_text(text)
        made[text.partition("# public key: ")[2].partition("\n")[0]] = str(tmp_path / name)
    return made


@pytest.fixture
def installed(site: Site, both: Ends, officers: dict[str, str], run: Callable[..., Completed]) -> InstalledMachine:
    """A host whose recovery key takes two of three officers."""
    asked = {"key": KEY, "recipients": list(officers)}
    escrow = json.loads(run(["python3", "-B", "-c", SHARE], stdin=json.dumps(asked).encode()).stdout)
    site.encrypt_to(*officers, threshold=2)
    tpm = Tpm(both, "one")
    machine = site.machine("one", tpm=tpm, start=tpm.boot, **escrow)
    machine.start()
    done = site.play("provision", "--limit", "one")
    assert done.returncode == 0, done.stdout + done.stderr
    return machine.done()


def broken(site: Site, tpm: Tpm, directory: Path, opened: list[bytes]) -> InstalledMachine:
    """The same machine, which starts the installer as soon as a repair is ordered."""

    def unlock(machine: InstalledMachine) -> None:
        def ask(recipient: str) -> tuple[bytes, str]:
            nonce = base64.b64encode(qualifying_data(recipient)).decode()
            quote = tpm.quote(nonce, machine.predicted["installer"])
            assert machine.machine.own("PUT", "/unlock", json={"recipient": recipient, **quote}).status_code == 202
            machine._wait(lambda: machine.machine.own("GET", "/unlock").status_code != 202)
            given = machine.machine.own("GET", "/unlock").json()
            return tpm.activate(given), str(given["recovery_key"])

        directory.mkdir(mode=0o700)
        opened.append(keeping.recovery_key(ask, directory))

    def ordered() -> Any:
        return site.server.admin.get("/admin/v1/machines/one").json()["repair"]

    return site.machine("one", tpm=tpm, start=tpm.boot, unlock=unlock, once=ordered)


def test_host_is_repaired_with_officers_at_hand(
    site: Site, both: Ends, installed: InstalledMachine, officers: dict[str, str], tmp_path: Path
) -> None:
    certificate = installed.certificates()[0]
    identities = list(officers.values())
    words = ["--limit", "one", "-e", '{"reason": "does not start"}']
    opened: list[bytes] = []
    machine = broken(site, Tpm(both, "one"), tmp_path / "tmpfs", opened)
    machine.start()
    done = site.play("repair", *words, "-e", f"identity={identities[0]},{identities[2]}", "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert site.server.last()["action"] == "installed", "nothing was ordered"
    done = site.play("repair", *words, "-e", f"identity={identities[0]},{identities[2]}", "-vvv")
    assert done.returncode == 0, done.stdout + done.stderr
    machine.done()
    assert [key.decode() for key in opened] == [KEY]
    known = site.server.admin.get("/admin/v1/machines/one").json()
    assert (known["repair"], known["enrolment"]["state"]) == (None, "repaired")
    assert known["installed"], "it is the host as before"
    assert len(known["escrows"]) == 1
    assert certificate.serial_number == installed.certificates()[0].serial_number
    log = site.server.log()
    (ordered,) = [each for each in log if each["action"] == "repair ordered"]
    assert ordered["detail"]["reason"] == "does not start"
    assert ordered["detail"]["expires"]
    database = b"".join(path.read_bytes() for path in tmp_path.glob("enrolment.sqlite*"))
    for secret in (KEY, "AGE-SECRET-KEY", '"share": "'):
        assert secret not in site.printed
        assert secret not in json.dumps(log)
        assert secret.encode() not in database


def test_one_officer_is_not_enough_and_the_machine_is_told_no(
    site: Site, both: Ends, installed: InstalledMachine, officers: dict[str, str], tmp_path: Path
) -> None:
    opened: list[bytes] = []
    machine = broken(site, Tpm(both, "one"), tmp_path / "tmpfs", opened)
    machine.start()
    identity = next(iter(officers.values()))
    done = site.play("repair", "--limit", "one", "-e", "reason=test", "-e", f"identity={identity}")
    assert done.returncode == 2
    assert "it takes 2 of 3 officers" in done.stdout
    assert "1 of 1 disks are not repaired: one" in done.stdout
    with pytest.raises(KeyError):  # it is given no key
        machine.done()
    assert opened == []
    assert site.server.admin.get("/admin/v1/machines/one").json()["repair"], "the same command goes on"


def test_other_machine_is_refused_while_a_repair_is_ordered(
    site: Site, both: Ends, installed: InstalledMachine, tmp_path: Path
) -> None:
    body = {"reason": "test", "seconds": 3600}
    assert site.server.admin.put("/admin/v1/hosts/one/repair", json=body).is_success
    thief = Tpm(both, "thief")
    late = site.machine("one", tpm=thief, start=thief.boot)
    late.start()
    late.join(30)
    assert late.machine.id == ""
    assert site.server.last()["detail"]["reason"] == "another TPM with serial number or MAC address of one"


def test_what_is_missing_is_said_before_anything_is_ordered(site: Site, tmp_path: Path) -> None:
    for options, said in (
        (["--limit", "one", "-e", "reason=test", "-e", f"identity={tmp_path}/nobody"], "the officer's identity is not"),
        (
            ["--limit", "one", "-e", "reason=test", "-e", f"shares={tmp_path}/nothing"],
            "the officer's share is not",
        ),
        (["--limit", "three", "-e", "reason=test", "-e", "identity=x"], "hosts.three.machine.ek_sha256: is missing"),
        (["--limit", "one", "-e", "identity=x"], "a reason"),
        (["-e", "reason=test", "-e", "identity=x"], "hosts that are named"),
    ):
        done = site.play("repair", *options)
        assert done.returncode != 0
        assert said in done.stdout + done.stderr, done.stdout + done.stderr
    assert site.server.admin.get("/admin/v1/machines").json()["hosts"] == []


def test_host_that_was_never_installed_is_said_to_be_unknown(site: Site, officers: dict[str, str]) -> None:
    identity = next(iter(officers.values()))
    done = site.play("repair", "--limit", "one", "-e", "reason=test", "-e", f"identity={identity}")
    assert done.returncode == 2
    assert "the service does not know it" in done.stdout
    assert "1 of 1 disks are not repaired: one" in done.stdout
