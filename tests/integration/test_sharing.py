# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Recovery keys that take several officers: shared by the installer's code in the SDK, recovered by the playbook."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import pytest
import yaml
from provisioned import ROOT, Site
from sdk import SDK

from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox

pytestmark = pytest.mark.skipif(not SDK.exists(), reason=f"no SDK at {SDK}: run 'make build' or set FLEET_SDK")

KEY = "-".join(["cbdefghi"] * 8)
OFFICERS = ("ada", "ben", "cleo")
SHARE = """
import json, sys
from ansible_collections.vauban.fleet.plugins.module_utils._install import sharing
asked = json.load(sys.stdin)
json.dump(sharing.share(asked["key"].encode(), asked["recipients"], asked["threshold"]), sys.stdout)
"""
JOIN = "ansible_collections.vauban.fleet.plugins.module_utils._install.sharing"


@dataclass
class Bench:
    """Programs of the SDK, which the installer has, too. Files are below ``directory``."""

    sandbox: Sandbox
    directory: Path

    def run(self, *command: str, stdin: bytes = b"") -> str:
        library = "/run/lib/ansible_collections/vauban/fleet/plugins/module_utils"
        binds = [Bind(self.directory, str(self.directory), writable=True)]
        binds.append(Bind(ROOT / "plugins/module_utils", library))
        return self.sandbox.run(command, binds=binds, env={"PYTHONPATH": "/run/lib"}, stdin=stdin).stdout

    def identity(self, name: str) -> str:
        """Make one; its recipient."""
        self.run("age-keygen", "-o", str(self.directory / name))
        return self.run("age-keygen", "-y", str(self.directory / name)).strip()

    def share(self, recipients: list[str], threshold: int, key: str = KEY) -> dict[str, Any]:
        """As the installer does it."""
        asked = {"key": key, "recipients": recipients, "threshold": threshold}
        return dict(json.loads(self.run("python3", "-B", "-c", SHARE, stdin=json.dumps(asked).encode())))

    def decrypt(self, name: str, text: str) -> str:
        """As an officer does it, where his identity is."""
        return self.run("age", "--decrypt", "--identity", str(self.directory / name), stdin=text.encode())

    def join(self, escrow: dict[str, Any], brought: dict[str, str]) -> dict[str, Any]:
        """As the controller does it."""
        asked = {"escrow": escrow, "brought": [{"where": name, "text": text} for name, text in brought.items()]}
        return dict(json.loads(self.run("python3", "-B", "-m", JOIN, stdin=json.dumps(asked).encode())))


@pytest.fixture
def bench(sandbox: Sandbox, tmp_path: Path) -> Bench:
    (tmp_path / "officers").mkdir()
    return Bench(sandbox, tmp_path / "officers")


@pytest.fixture
def recipients(bench: Bench) -> list[str]:
    return [bench.identity(name) for name in OFFICERS]


def opened(bench: Bench, escrow: dict[str, Any]) -> dict[str, str]:
    """The share of each officer, who can open no other."""
    shares = escrow["shared"]["shares"]
    return {name: bench.decrypt(name, each["share"]) for name, each in zip(OFFICERS, shares, strict=True)}


def test_each_pair_of_three_opens_it_and_one_alone_does_not(bench: Bench, recipients: list[str]) -> None:
    escrow = bench.share(recipients, 2)
    shares = opened(bench, escrow)
    assert KEY not in json.dumps([escrow, shares])
    for some in itertools.combinations(OFFICERS, 2):
        answer = bench.join(escrow, {name: shares[name] for name in some})
        assert base64.b64decode(answer["recovery_key"]).decode() == KEY
    for name in OFFICERS:
        fault = bench.join(escrow, {name: shares[name], f"{name}, once more": shares[name]})["fault"]
        assert "it takes 2 of 3 officers, and here are shares of 1" in fault["message"]
        absent = [each for other, each in zip(OFFICERS, recipients, strict=True) if other != name]
        assert all(each in fault["remedy"] for each in absent)


def test_officers_cannot_open_the_shares_of_others(bench: Bench, recipients: list[str]) -> None:
    escrow = bench.share(recipients, 3)
    first = escrow["shared"]["shares"][0]["share"]
    for name in OFFICERS[1:]:
        with pytest.raises(Exception, match="no identity matched"):
            bench.decrypt(name, first)
    with pytest.raises(Exception, match="no identity matched"):
        bench.decrypt(OFFICERS[0], escrow["recovery_key"])


def test_fewer_shares_than_it_takes_give_nothing_even_to_who_lowers_the_number(
    bench: Bench, recipients: list[str]
) -> None:
    """The service keeps the document, and could change it."""
    escrow = bench.share(recipients, 3)
    shares = opened(bench, escrow)
    escrow["shared"]["threshold"] = 2
    answer = bench.join(escrow, {name: shares[name] for name in OFFICERS[:2]})
    assert "do not open the recovery key" in answer["fault"]["message"]


def changed(text: str, **changes: Any) -> str:
    return json.dumps({**json.loads(text), **changes})


def test_share_that_is_none_of_this_key_is_named(bench: Bench, recipients: list[str]) -> None:
    escrow, other = bench.share(recipients, 2), bench.share(recipients, 2)
    shares, foreign = opened(bench, escrow), opened(bench, other)
    digit = json.loads(shares["ben"])["share"][:-1]
    for text, said in (
        (foreign["ben"], "is a share of another recovery key"),
        (changed(foreign["ben"], set=escrow["shared"]["set"]), "has been changed since the machine made it"),
        (changed(shares["ben"], share=digit + "0"), "has been changed since the machine made it"),
        (changed(shares["ben"], number=3), "has been changed since the machine made it"),
        (shares["ben"][:-9], "is no share of a recovery key"),
        ("", "is no share of a recovery key"),
        ("[]", "is no share of a recovery key"),
    ):
        if text == shares["ben"]:
            continue  # the last digit was 0
        answer = bench.join(escrow, {"ada": shares["ada"], "/media/ben": text, "cleo": shares["cleo"]})
        assert (answer["fault"]["where"], answer["fault"]["message"]) == ("/media/ben", said)
        assert "recovery_key" not in answer
    assert "fault" not in bench.join(escrow, {"ada": shares["ada"], "ben": f"{shares['ben']}\n"}), "an editor's newline"


def test_recovery_key_that_the_service_has_changed_is_not_given_out(bench: Bench, recipients: list[str]) -> None:
    escrow, other = bench.share(recipients, 2), bench.share(recipients, 2, key="another")
    shares = opened(bench, escrow)
    answer = bench.join({**escrow, "recovery_key": other["recovery_key"]}, shares)
    assert "do not open the recovery key, which may have been changed" in answer["fault"]["message"]


def test_installer_has_all_that_sharing_imports(bench: Bench, recipients: list[str]) -> None:
    """Its initrd holds the files of the SDK that are listed, and no others."""
    asked = {"key": KEY, "recipients": recipients, "threshold": 2}
    loaded = "[m.__file__ for m in list(sys.modules.values()) if getattr(m, '__file__', None)]"
    code = f"{SHARE}\njson.dump({loaded}, open('{bench.directory}/loaded', 'w'))"
    bench.run("python3", "-B", "-c", code, stdin=json.dumps(asked).encode())
    listed = yaml.safe_load((ROOT / "files/initrd/installer.yml").read_text())["sdk_files"]
    files = json.loads((bench.directory / "loaded").read_text())
    assert any("SecretSharing" in file for file in files)
    for file in files:
        held = any(PurePath(file).match(each) or file.startswith(f"{each}/") for each in listed)
        assert held or file.startswith("/run/lib/"), f"{file} is not in the installer"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(tmp_path, stack)


@pytest.fixture
def installed(site: Site, bench: Bench, recipients: list[str]) -> dict[str, Any]:
    """The site has installed one host, whose recovery key takes two of three officers."""
    escrow = bench.share(recipients, 2)
    site.encrypt_to(*recipients, threshold=2)
    machine = site.machine("one", **escrow)
    machine.start()
    done = site.play("provision", "--limit", "one")
    assert done.returncode == 0, done.stdout + done.stderr
    machine.done()
    return escrow


@pytest.fixture
def recover(site: Site, tmp_path: Path) -> Callable[..., str]:
    """Run the playbook, which prints no secret however it ends; what it said of what went wrong."""

    def call(*options: str) -> str:
        done = site.play(
            "recover", "-e", "recover=one", "-e", f"provision_recover_path={tmp_path}/key", "-vvv", *options
        )
        assert not [secret for secret in (KEY, "AGE-SECRET-KEY", '"share": "') if secret in site.printed]
        return "" if done.returncode == 0 else done.stdout + done.stderr

    return call


@pytest.mark.usefixtures("installed")
def test_officers_in_several_places_recover_a_key(
    site: Site, bench: Bench, recover: Callable[..., str], tmp_path: Path
) -> None:
    assert recover("-e", f"shares_to={tmp_path}/sent") == ""
    sent = sorted((tmp_path / "sent").iterdir())
    assert len(sent) == len(OFFICERS)
    assert (site.server.last()["action"], site.server.last()["host"]) == ("escrow read", "one")
    recipient = {name: bench.run("age-keygen", "-y", str(bench.directory / name)).strip() for name in OFFICERS}
    brought = tmp_path / "brought"
    brought.mkdir()
    (brought / "ada").write_text(bench.decrypt("ada", (tmp_path / f"sent/one-{recipient['ada']}.age").read_text()))
    assert "it takes 2 of 3 officers, and here are shares of 1" in recover("-e", f"shares={brought}")
    assert not (tmp_path / "key").exists()

    # Another one sends his by a way that others read: encrypted to an identity that was made for this.
    operator = bench.identity("operator")
    share = bench.decrypt("ben", (tmp_path / f"sent/one-{recipient['ben']}.age").read_text())
    encrypted = bench.run("age", "--encrypt", "--recipient", operator, "--armor", stdin=share.encode())
    (brought / "ben.age").write_text(encrypted)
    assert "ben.age: is encrypted, and nothing here opens it" in recover("-e", f"shares={brought}")
    assert recover("-e", f"shares={brought}", "-e", f"identity={bench.directory}/operator") == ""
    assert (tmp_path / "key").read_text() == KEY
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    log = json.dumps(site.server.log())
    database = b"".join(path.read_bytes() for path in tmp_path.glob("enrolment.sqlite*"))
    value = json.loads(share)["share"]
    for secret in (KEY, value, json.loads((brought / "ada").read_text())["share"]):
        assert secret not in log
        assert secret not in site.printed
        assert secret.encode() not in database


@pytest.mark.usefixtures("installed")
def test_officers_in_one_room_bring_their_identities(bench: Bench, recover: Callable[..., str], tmp_path: Path) -> None:
    stranger = bench.identity("stranger")
    assert stranger
    assert f"{bench.directory}/stranger: opens no share of it" in recover(
        "-e", f"identity={bench.directory}/ada,{bench.directory}/stranger"
    )
    assert "here are shares of 1" in recover("-e", f"identity={bench.directory}/cleo")
    assert not (tmp_path / "key").exists()
    assert recover("-e", f"identity={bench.directory}/cleo,{bench.directory}/ada") == ""
    assert (tmp_path / "key").read_text() == KEY


def test_service_takes_no_key_that_one_officer_opens_alone(site: Site, bench: Bench, recipients: list[str]) -> None:
    site.encrypt_to(*recipients, threshold=2)
    words = [word for each in recipients for word in ("--recipient", each)]
    alone = bench.run("age", "--encrypt", "--armor", *words, stdin=KEY.encode())
    machine = site.machine("one", recovery_key=alone)
    machine.start()
    assert site.play("provision", "--limit", "one", "-e", "provision_patience=5").returncode == 2
    with pytest.raises(AssertionError):
        machine.done()
    assert site.server.last()["detail"]["reason"] == "is not shared, and should take 2 officers"
