# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A recovery key reaches the machine that the disk is in now, through a service that would like to read it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from endorsement import Ends
from enrolment import text
from sdk import SDK
from tpm_machines import INSTALLER, PREDICTED, Tpm, machines

from ansible_collections.vauban.fleet.plugins.module_utils._command import Completed
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install import keeping
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._tpm.binding import qualifying_data
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision.recovery import Officers, Opener, Unlocker
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision.service import Service

pytestmark = pytest.mark.skipif(not SDK.exists(), reason=f"no SDK at {SDK}: run 'make build' or set FLEET_SDK")

KEY = "-".join(["cbdefghi"] * 8)
Run = Callable[..., Completed]
Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def both(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ends]:
    with machines(sandbox, tmp_path_factory.mktemp("tpm"), {"new": None, "thief": None}) as started:
        yield started


@pytest.fixture
def new(both: Ends) -> Tpm:
    """The TPM of the machine that the disk is in now; it has booted the installer."""
    made = Tpm(both, "new")
    made.boot(INSTALLER)
    return made


@pytest.fixture
def run(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Programs of the SDK, which the installer has, too."""

    def call(argv: Sequence[Any], stdin: bytes = b"", **_options: Any) -> Completed:
        return sandbox.run(argv, binds=[Bind(tmp_path, str(tmp_path))], stdin=stdin)

    monkeypatch.setattr(keeping, "run", call)
    return call


class Carrier:
    """The service between machine and controller: it carries, and may change what it carries.

    :param change: what it does to a question.
    """

    def __init__(self, unlocker: Unlocker, escrow: dict[str, str], change: Change) -> None:
        self.unlocker, self.escrow, self.change = unlocker, escrow, change
        self.question: dict[str, Any] = {}
        self.calls: list[Any] = []

    def ask(self, calls: Sequence[Any]) -> list[dict[str, Any]]:
        bodies = {"/admin/v1/unlocks": [self.question], "/admin/v1/escrows/one": [self.escrow]}
        return [{"status": 200, "body": bodies[call["path"]]} for call in calls]

    def answer(self, question: dict[str, Any]) -> dict[str, str]:
        self.question = {"host": "one", "enrolment": "e1", **question}
        self.change(self.question)
        (call,) = self.unlocker.answers(Service(self.ask, "boot"), "boot")
        self.calls.append(call)
        assert call.method == "PUT", call.body["reason"]
        return dict(call.body)


@pytest.fixture
def carrier(run: Run, sandbox: Sandbox, new: Tpm, tmp_path: Path) -> Callable[..., Carrier]:
    """The controller, which knows the EK of the host from its site; and what is between it and the machine."""
    made = run(["age-keygen"]).stdout
    recipient = made.partition("# public key: ")[2].partition("\n")[0]
    (tmp_path / "officer").write_text(made)
    sealed = run(["age", "--encrypt", "--armor", "--recipient", recipient], stdin=KEY.encode()).stdout
    document = json.dumps({"recovery_key": sealed, "recipients": [recipient]}).encode()
    escrow = {"id": "1", "sha256": hashlib.sha256(document).hexdigest(), "document": text(document)}

    def make(change: Change = lambda _question: None, **known: Any) -> Carrier:
        eks, expected = known.get("eks", {"one": new.sha256}), {"one": PREDICTED["installer"]}
        opener = Opener(Officers([tmp_path / "officer"]), sandbox)
        return Carrier(Unlocker(opener, eks, expected, None, print), escrow, change)

    return make


def unlock(carrier: Carrier, tpm: Tpm, directory: Path, nonce: Callable[[str], bytes] = qualifying_data) -> bytes:
    """As the installer asks (:func:`keeping.recovery_key`)."""

    def ask(recipient: str) -> tuple[bytes, str]:
        quote = tpm.quote(text(nonce(recipient)), PREDICTED["installer"])
        keys = tpm.public()
        given = carrier.answer(
            {"recipient": recipient, **quote, **{name: keys[name] for name in ("ek_public", "ak_public")}}
        )
        return tpm.activate(given), str(given["recovery_key"])

    directory.chmod(0o700)
    return keeping.recovery_key(ask, directory)


def test_recovery_key_arrives_and_nothing_in_between_shows_it(
    carrier: Callable[..., Carrier], new: Tpm, tmp_path: Path
) -> None:
    between = carrier()
    assert unlock(between, new, tmp_path).decode() == KEY
    (call,) = between.calls
    assert KEY not in json.dumps(call.body)
    assert not (tmp_path / "identity").exists()


def refused(between: Carrier, tpm: Tpm, directory: Path, **options: Any) -> str:
    with pytest.raises(AssertionError):
        unlock(between, tpm, directory, **options)
    (call,) = between.calls
    assert (call.method, call.path) == ("POST", "/enrolments/e1/refuse")
    assert "recovery_key" not in call.body
    return str(call.body["reason"])


def test_recipient_of_the_service_is_refused(
    carrier: Callable[..., Carrier], new: Tpm, run: Run, tmp_path: Path
) -> None:
    own = run(["age-keygen"]).stdout.partition("# public key: ")[2].partition("\n")[0]
    said = refused(carrier(lambda question: question.update(recipient=own)), new, tmp_path)
    assert "it answers another nonce than this one" in said


def test_what_the_service_has_the_tpm_sign_certifies_no_recipient(
    carrier: Callable[..., Carrier], new: Tpm, tmp_path: Path
) -> None:
    """It chooses the nonces of challenges; the installer signs those of 32 bytes, and no others, for it."""

    def nonce(recipient: str) -> bytes:
        return hashlib.sha256(recipient.encode()).digest()

    assert "it answers another nonce" in refused(carrier(), new, tmp_path, nonce=nonce)


def test_other_tpm_is_refused_though_the_service_takes_it_for_the_host(
    carrier: Callable[..., Carrier], both: Ends, tmp_path: Path
) -> None:
    thief = Tpm(both, "thief")
    thief.boot(INSTALLER)
    assert f"it is {thief.sha256}, and the site lists" in refused(carrier(), thief, tmp_path)


def test_other_system_on_the_right_machine_is_refused(
    carrier: Callable[..., Carrier], new: Tpm, tmp_path: Path
) -> None:
    new.boot({**INSTALLER, 11: "other parts"})
    assert "11" in refused(carrier(), new, tmp_path)


def test_key_of_another_tpm_releases_nothing(
    carrier: Callable[..., Carrier], both: Ends, new: Tpm, tmp_path: Path
) -> None:
    """A machine that runs the installer, with the EK of another: the answer is only for who has both keys."""
    thief = Tpm(both, "thief")
    thief.boot(INSTALLER)
    between = carrier(lambda question: question.update(ek_public=new.public()["ek_public"]))
    with pytest.raises(FleetError, match="it is for another TPM"):
        unlock(between, thief, tmp_path)
    with pytest.raises(FleetError, match="it is for another TPM"):
        new.activate(between.calls[0].body)


def test_answer_of_before_opens_nothing_later(carrier: Callable[..., Carrier], new: Tpm, tmp_path: Path) -> None:
    """The recipient is forgotten when the machine starts again, though its TPM would release the secret again."""
    between = carrier()
    unlock(between, new, tmp_path)
    old = between.calls[0].body
    with pytest.raises(FleetError, match="is not for this machine"):
        keeping.recovery_key(lambda _recipient: (new.activate(old), str(old["recovery_key"])), tmp_path)


def test_secret_of_another_opens_nothing(carrier: Callable[..., Carrier], new: Tpm, tmp_path: Path) -> None:
    between = carrier()
    activate = new.activate
    new.activate = lambda challenge: base64.b64decode(text(bytes(32))) if activate(challenge) else b""  # type: ignore[method-assign]
    with pytest.raises(FleetError, match="is not for this machine"):
        unlock(between, new, tmp_path)
