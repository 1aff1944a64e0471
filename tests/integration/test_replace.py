# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbook replace: another TPM has the disk of a host, and an officer opens it from the controller."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from endorsement import Ends
from provisioned import SITE, InstalledMachine, Site
from sdk import SDK
from tpm_machines import Judge, Tpm, machines

from ansible_collections.vauban.fleet.plugins.module_utils._command import Completed
from ansible_collections.vauban.fleet.plugins.module_utils._install import keeping
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._tpm.binding import qualifying_data

pytestmark = pytest.mark.skipif(not SDK.exists(), reason=f"no SDK at {SDK}: run 'make build' or set FLEET_SDK")

KEYS = ["-".join([word * 8] * 8) for word in ("b", "c")]


@pytest.fixture(scope="module")
def both(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ends]:
    with machines(sandbox, tmp_path_factory.mktemp("tpm"), {"old": None, "new": None}) as started:
        yield started


@pytest.fixture
def site(both: Ends, tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(tmp_path, stack, Judge(both))


@pytest.fixture
def run(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Completed]:
    def call(argv: Sequence[Any], stdin: bytes = b"") -> Completed:
        return sandbox.run(argv, binds=[Bind(tmp_path, str(tmp_path))], stdin=stdin)

    monkeypatch.setattr(keeping, "run", call)
    return call


def test_disk_goes_to_another_machine_and_its_data_with_it(
    site: Site, both: Ends, run: Callable[..., Completed], tmp_path: Path
) -> None:
    made = run(["age-keygen"]).stdout
    recipient = made.partition("# public key: ")[2].partition("\n")[0]
    officer = tmp_path / "officer"
    officer.write_text(made)
    site.encrypt_to(recipient)
    sealed = [run(["age", "--encrypt", "--armor", "--recipient", recipient], stdin=key.encode()).stdout for key in KEYS]
    old, new = Tpm(both, "old"), Tpm(both, "new")

    def write(ek_sha256: str) -> None:
        changed: dict[str, Any] = copy.deepcopy(SITE)
        changed["hosts"]["one"]["machine"]["ek_sha256"] = ek_sha256
        site.write(changed)

    write(old.sha256)
    first = site.machine("one", tpm=old, recovery_key=sealed[0], start=old.boot)
    first.start()
    done = site.play("provision", "--limit", "one")
    assert done.returncode == 0, done.stdout + done.stderr
    first.done()

    words = ["--limit", "one", "-e", f"identity={officer}"]
    write(new.sha256)
    opened: list[bytes] = []

    def unlock(machine: InstalledMachine) -> None:
        def ask(recipient: str) -> tuple[bytes, str]:
            nonce = base64.b64encode(qualifying_data(recipient)).decode()
            quote = new.quote(nonce, machine.predicted["installer"])
            assert machine.machine.own("PUT", "/unlock", json={"recipient": recipient, **quote}).status_code == 202
            machine._wait(lambda: machine.machine.own("GET", "/unlock").status_code == 200)
            given = machine.machine.own("GET", "/unlock").json()
            return new.activate(given), str(given["recovery_key"])

        directory = tmp_path / "tmpfs"
        directory.mkdir(mode=0o700)
        opened.append(keeping.recovery_key(ask, directory))

    second = site.machine(
        "one",
        tpm=new,
        recovery_key=sealed[1],
        start=new.boot,
        unlock=unlock,
        once=lambda: site.server.admin.get("/admin/v1/machines/one").json()["keep"],
    )
    second.start()
    done = site.play("replace", *words, "-vvv")
    assert done.returncode == 0, done.stdout + done.stderr
    second.done()
    assert [key.decode() for key in opened] == KEYS[:1], "that of the disk as it was"
    assert site.report()["hosts"]["one"]["state"] == "installed"
    revoked = x509.load_pem_x509_crl((site.pki / "crl/issuing.crl").read_bytes())
    before, after = (each.certificates()[0].serial_number for each in (first, second))
    assert revoked.get_revoked_certificate_by_serial_number(before) is not None
    assert revoked.get_revoked_certificate_by_serial_number(after) is None
    known = site.server.admin.get("/admin/v1/machines/one").json()
    assert (known["keep"], len(known["escrows"])) == (False, 2)
    said = site.printed + json.dumps(site.server.log())
    assert not [secret for secret in (*KEYS, "AGE-SECRET-KEY") if secret in said]
    database = b"".join(path.read_bytes() for path in tmp_path.glob("enrolment.sqlite*"))
    assert not [key for key in KEYS if key.encode() in database]

    late = site.machine("one", tpm=old, start=old.boot)
    late.start()
    late.join(30)
    assert site.server.last()["detail"]["reason"] == "another TPM with serial number or MAC address of one"


def test_what_is_missing_is_said_before_anything_changes(site: Site, both: Ends, tmp_path: Path) -> None:
    for options, said in (
        (["--limit", "one", "-e", f"identity={tmp_path}/nobody"], "the officer's identity is not here"),
        (["--limit", "three", "-e", f"identity={tmp_path}/nobody"], "hosts.three.machine.ek_sha256: is missing"),
        (["-e", f"identity={tmp_path}/nobody"], "hosts that are named"),
    ):
        done = site.play("replace", *options)
        assert done.returncode != 0
        assert said in done.stdout + done.stderr, done.stdout + done.stderr
    assert site.server.admin.get("/admin/v1/machines").json()["hosts"] == []
