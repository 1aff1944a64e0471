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
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._command import CommandError
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install import backing_up
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._tpm.binding import identity_of
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision.service import Call, Service

_ROOT = Path(__file__).resolve().parents[3]
_LIBRARY = "/run/lib"
_MODULE_UTILS = "ansible_collections/vauban/fleet/plugins/module_utils"
_SERVICE = "roles/enrolment/files/python/vauban_enrolment"
_IDENTITY = "/run/identity"
_JUDGE = "vauban_enrolment.unlock_judge"
_SHARING = "ansible_collections.vauban.fleet.plugins.module_utils._install.sharing"
_AGE = (b"-----BEGIN AGE ENCRYPTED FILE-----", b"age-encryption.org/")


@dataclass(frozen=True)
class Officers:
    """Who can read recovery keys, one alone or several together, as the release says.

    :param identities: files with identities of age: of officers, or one that shares are encrypted to on their way here.
    :param shares: files with shares that officers have decrypted elsewhere; directories stand for the files in them.
    """

    identities: Sequence[Path]
    shares: Sequence[Path] = ()

    def require(self) -> None:
        """See that what they have brought is here.

        :raises FleetError: it is not, or it is nothing.
        """
        if not self.identities and not self.shares:
            remedy = "bring the identity of an officer, or shares of several"
            raise FleetError("nothing that could open a recovery key was brought", where="identity", remedy=remedy)
        for path in self.identities:
            if not path.is_file():
                raise FleetError("the officer's identity is not here", where=str(path), remedy="plug its medium in")
        for path in self.shares:
            if not path.exists():
                raise FleetError("the officer's share is not here", where=str(path), remedy="plug its medium in")

    def share_files(self) -> list[Path]:
        """One by one."""
        found = (sorted(path.iterdir()) if path.is_dir() else [path] for path in self.shares)
        return [path for some in found for path in some]


@dataclass(frozen=True)
class Escrow:
    """A recovery key as it came from its machine.

    :param about: ``id``, ``sha256``, ``time`` and ``enrolment``.
    """

    about: Mapping[str, Any]
    document: Mapping[str, Any]

    @classmethod
    def fetch(cls, service: Service, server: str, host: str, escrow: str | None) -> Escrow:
        """Fetch it, which the service logs.

        :param escrow: which one; the newest unless given.
        :raises FleetError: there is none, or it is not what was sent.
        """
        (kept,) = service.need([Call("GET", f"/escrows/{host}")])
        chosen = _choose(kept, host, escrow)
        document = base64.b64decode(chosen["document"])
        if hashlib.sha256(document).hexdigest() != chosen["sha256"]:
            raise FleetError("is not what the machine has sent", where=f"{server}: escrow {chosen['id']}")
        return cls(chosen, json.loads(document))

    @property
    def shares(self) -> Mapping[str, str]:
        """By recipient, the encrypted share of each officer; none if each opens the recovery key alone."""
        shared = self.document.get("shared")
        return {each["recipient"]: each["share"] for each in shared["shares"]} if shared else {}

    @property
    def threshold(self) -> int:
        """How many officers it takes."""
        shared = self.document.get("shared")
        return int(shared["threshold"]) if shared else 1


@dataclass(frozen=True)
class Opener:
    """Decrypts, with what officers have brought.

    :param sandbox: of the SDK, whose age reads it.
    """

    officers: Officers
    sandbox: Sandbox

    def fetch(self, service: Service, server: str, host: str, escrow: str | None) -> tuple[Mapping[str, Any], bytes]:
        """Fetch a recovery key from escrow, and decrypt it.

        :returns: which it is, and the key.
        :raises FleetError: as :meth:`Escrow.fetch`; or it is encrypted to others, or to more than have come.
        """
        found = Escrow.fetch(service, server, host, escrow)
        return found.about, self._joined(found) if found.shares else self._alone(found)

    def _alone(self, escrow: Escrow) -> bytes:
        if not self.officers.identities:
            remedy = "bring the identity of one of its officers, each of whom opens it alone"
            raise FleetError("the recovery key is not shared", where=str(self.officers.shares[0]), remedy=remedy)
        for path in self.officers.identities:
            try:
                return self._decrypt(path, escrow.document["recovery_key"].encode())
            except CommandError as exc:
                reason = exc.message
        wanted = ", ".join(escrow.document["recipients"])
        remedy = f"it is encrypted to {wanted}; bring one of their identities"
        raise FleetError(reason, where=", ".join(map(str, self.officers.identities)), remedy=remedy)

    def _joined(self, escrow: Escrow) -> bytes:
        brought, used = [], set()
        for path in self.officers.share_files():
            text, by = self._read(path)
            brought.append({"where": str(path), "text": text})
            used.add(by)
        for path in self.officers.identities:
            for share in escrow.shares.values():
                with suppress(CommandError):
                    brought.append({"where": str(path), "text": self._decrypt(path, share.encode()).decode()})
                    used.add(path)
        if idle := [str(path) for path in self.officers.identities if path not in used]:
            remedy = f"the recovery key is shared among {', '.join(escrow.shares)}"
            raise FleetError("opens no share of it", where=", ".join(idle), remedy=remedy)
        question = {"escrow": escrow.document, "brought": brought}
        answer = _inside(self.sandbox, _SHARING, question)
        if fault := answer.get("fault"):
            raise FleetError(fault["message"], where=fault["where"], remedy=fault["remedy"])
        return base64.b64decode(answer["recovery_key"])

    def _read(self, path: Path) -> tuple[str, Path | None]:
        """A share, and the identity that it was encrypted to on its way here, if it was."""
        content = path.read_bytes()
        if not content.startswith(_AGE):
            return content.decode("utf-8", "replace"), None
        for identity in self.officers.identities:
            with suppress(CommandError):
                return self._decrypt(identity, content).decode("utf-8", "replace"), identity
        remedy = "let the officer decrypt it, or encrypt it to an identity that is brought with it"
        raise FleetError("is encrypted, and nothing here opens it", where=str(path), remedy=remedy)

    def _decrypt(self, identity: Path, text: bytes) -> bytes:
        """To a pipe: a key is on no disk but where it was asked for."""
        command = ["age", "--decrypt", "--identity", _IDENTITY]
        return self.sandbox.run(command, binds=[Bind(identity.resolve(), _IDENTITY)], stdin=text).stdout_bytes


def _inside(sandbox: Sandbox, program: str, question: Mapping[str, Any]) -> dict[str, Any]:
    """Ask one of our own programs, which needs libraries of the SDK."""
    done = sandbox.run(
        ["python3", "-B", "-m", program],
        binds=[
            Bind(_ROOT / "plugins/module_utils", f"{_LIBRARY}/{_MODULE_UTILS}"),
            Bind(_ROOT / _SERVICE, f"{_LIBRARY}/vauban_enrolment"),
        ],
        env={"PYTHONPATH": _LIBRARY},
        stdin=json.dumps(question).encode(),
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


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
    :param backup_to: whom machines encrypt their data to (recipients of age), if they are to be backed up. That goes
        with the key, for the service must not choose them; and a machine that was told to do anything else cannot use
        such an answer.
    """

    opener: Opener
    eks: Mapping[str, str]
    expected: Mapping[str, Mapping[str, str]]
    escrow: str | None
    say: Callable[[str], None]
    backup_to: Sequence[str] = ()
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
                _which, key = self.opener.fetch(service, server, host, self.escrow)
            except FleetError as exc:
                self.denied.add(enrolment)
                self.say(f"{host}: its disk is not opened: {exc}")
                yield Call("POST", f"/enrolments/{enrolment}/refuse", {"reason": str(exc)[:300]})
            else:
                text = backing_up.release(key, self.backup_to) if self.backup_to else key.strip()
                sealed = self._seal(text, base64.b64decode(released.pop("credential")), each["recipient"])
                yield Call("PUT", f"/unlocks/{enrolment}", {**released, "recovery_key": sealed})

    def _judged(self, asked: Mapping[str, Any]) -> dict[str, str]:
        """Whether it is the host's machine and runs its installer; and a secret that only its TPM can release."""
        host = asked["host"]
        question = {**asked, "ek_sha256": self.eks[host], "expected": dict(self.expected[host])}
        answer: dict[str, str] = _inside(self.opener.sandbox, _JUDGE, question)
        if "fault" in answer:
            raise FleetError(answer["fault"], where=host)
        return answer

    def _seal(self, text: bytes, secret: bytes, recipient: str) -> str:
        """Encrypt to what the TPM releases, and then to what the installer has made."""
        run = self.opener.sandbox.run
        released = run(["age-keygen", "-y"], stdin=f"{identity_of(secret)}\n".encode()).stdout.strip()
        inner = run(["age", "--encrypt", "--recipient", released], stdin=text).stdout_bytes
        return run(["age", "--encrypt", "--armor", "--recipient", recipient], stdin=inner).stdout
