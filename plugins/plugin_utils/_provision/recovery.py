# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Recovery keys, in the hands of an officer; and in those of the machine that they are for."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._command import CommandError
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._tpm.binding import identity_of
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision.service import Call, Service

_ROOT = Path(__file__).resolve().parents[3]
_LIBRARY = "/run/lib"
_MODULE_UTILS = "ansible_collections/vauban/fleet/plugins/module_utils"
_SERVICE = "roles/enrolment/files/python/vauban_enrolment"
_IDENTITY = "/run/identity"


def require_identity(path: Path) -> None:
    """See that an officer has brought an identity.

    :raises FleetError: it is not here.
    """
    if not path.is_file():
        raise FleetError("the officer's identity is not here", where=str(path), remedy="plug its medium in")


@dataclass(frozen=True)
class Officer:
    """Who can read recovery keys.

    :param identity: file with the identity of age.
    :param sandbox: of the SDK, whose age reads it.
    """

    identity: Path
    sandbox: Sandbox

    def fetch(self, service: Service, server: str, host: str, escrow: str | None) -> tuple[Mapping[str, Any], bytes]:
        """Fetch a recovery key from escrow, which the service logs, and decrypt it.

        :param escrow: which one; the newest unless given.
        :returns: which it is, and the key.
        :raises FleetError: there is none, it is not what was sent, or it is encrypted to others.
        """
        (kept,) = service.need([Call("GET", f"/escrows/{host}")])
        chosen = _choose(kept, host, escrow)
        document = base64.b64decode(chosen["document"])
        if hashlib.sha256(document).hexdigest() != chosen["sha256"]:
            raise FleetError("is not what the machine has sent", where=f"{server}: escrow {chosen['id']}")
        try:
            # To a pipe: the key is on no disk but where it was asked for.
            key = self.sandbox.run(
                ["age", "--decrypt", "--identity", _IDENTITY],
                binds=[Bind(self.identity.resolve(), _IDENTITY)],
                stdin=json.loads(document)["recovery_key"].encode(),
            ).stdout_bytes
        except CommandError as exc:
            wanted = ", ".join(json.loads(document)["recipients"])
            remedy = f"it is encrypted to {wanted}; bring one of their identities"
            raise FleetError(exc.message, where=str(self.identity), remedy=remedy) from None
        return chosen, key


def _choose(kept: Sequence[Mapping[str, Any]], host: str, escrow: str | None) -> Mapping[str, Any]:
    """The newest, or the one that is named."""
    found = [each for each in kept if escrow in (None, each["id"])]
    if not found:
        there = ", ".join(each["id"] for each in kept) or "none"
        raise FleetError(f"{host} has no such recovery key in escrow; there are: {there}", where=host)
    return found[-1]


@dataclass
class Unlocker:
    """Gives recovery keys to the machines that their disks are in now, and to nobody in between.

    The service is not believed: the site says which EK a host has, the signed release what an installer measures.

    :param eks: EK that the site lists (SHA-256), by host.
    :param expected: registers of the release that is installed, by host.
    :param say: called with a line.
    """

    officer: Officer
    eks: Mapping[str, str]
    expected: Mapping[str, Mapping[str, str]]
    escrow: str | None
    say: Callable[[str], None]
    denied: set[str] = field(default_factory=set)

    def answers(self, service: Service, server: str) -> Iterator[Call]:
        """What there is to answer now. A machine that is not the one is refused, and holds up no other."""
        (asked,) = service.need([Call("GET", "/unlocks")])
        for each in asked:
            host, enrolment = each["host"], each["enrolment"]
            if host not in self.eks or enrolment in self.denied:
                continue
            try:
                released = self._judged(each)
                _which, key = self.officer.fetch(service, server, host, self.escrow)
            except FleetError as exc:
                self.denied.add(enrolment)
                self.say(f"{host}: its disk is not opened: {exc}")
                yield Call("POST", f"/enrolments/{enrolment}/refuse", {"reason": str(exc)[:300]})
            else:
                sealed = self._seal(key, base64.b64decode(released.pop("credential")), each["recipient"])
                yield Call("PUT", f"/unlocks/{enrolment}", {**released, "recovery_key": sealed})

    def _judged(self, asked: Mapping[str, Any]) -> dict[str, str]:
        """Whether it is the host's machine and runs its installer; and a secret that only its TPM can release."""
        host = asked["host"]
        question = {**asked, "ek_sha256": self.eks[host], "expected": dict(self.expected[host])}
        answer: dict[str, str] = json.loads(
            self.officer.sandbox.run(
                ["python3", "-B", "-m", "vauban_enrolment.unlock_judge"],
                binds=[
                    Bind(_ROOT / "plugins/module_utils", f"{_LIBRARY}/{_MODULE_UTILS}"),
                    Bind(_ROOT / _SERVICE, f"{_LIBRARY}/vauban_enrolment"),
                ],
                env={"PYTHONPATH": _LIBRARY},
                stdin=json.dumps(question).encode(),
            ).stdout
        )
        if "fault" in answer:
            raise FleetError(answer["fault"], where=host)
        return answer

    def _seal(self, key: bytes, secret: bytes, recipient: str) -> str:
        """Encrypt to what the TPM releases, and then to what the installer has made."""
        run = self.officer.sandbox.run
        released = run(["age-keygen", "-y"], stdin=f"{identity_of(secret)}\n".encode()).stdout.strip()
        inner = run(["age", "--encrypt", "--recipient", released], stdin=key.strip()).stdout_bytes
        return run(["age", "--encrypt", "--armor", "--recipient", recipient], stdin=inner).stdout
