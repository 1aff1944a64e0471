# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Configurations brought to hosts, many at once, and what became of each."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from ansible_collections.vauban.fleet.plugins.plugin_utils._configure.drop import Account, Unreachable, visit
from ansible_collections.vauban.fleet.plugins.plugin_utils._configure.statement import Configuration, next_number

# What a host has, or had.
UNCHANGED, DIFFERS = "unchanged", "differs"
# What a machine says became of it.
APPLIED, REFUSED, WENT_BACK, _TRYING = "applied", "refused", "went back", "trying"
# Where the machine says nothing.
UNREACHABLE, SILENT = "unreachable", "silent"
GOOD = (UNCHANGED, DIFFERS, APPLIED)

_FORMAT = 1
_STATUS, _FILES = "configuration.json", "configuration.files"
_ARCHIVE, _SIGNED, _CONFIRMATION = "configuration.tar.gz", "configuration.p7m", "configuration.confirm"
_LIST = "root.crl"  # of revoked certificates
# Where files go that are not below /etc of the machine, and that it does not list (``_provision/configurations.py``).
_ELSEWHERE = "etc/swanctl/x509crl/"

Sign = Callable[[int], bytes]


@dataclass(frozen=True)
class Order:
    """What a host is to have.

    :param sign: signs it under a number.
    :param crl: the root's list of revoked certificates.
    :param crl_number: its number.
    """

    host: str
    account: Account
    configuration: Configuration
    sign: Sign
    crl: bytes
    crl_number: int


@dataclass(frozen=True)
class Outcome:
    """What became of it.

    :param number: of the configuration that is in force, or that was refused or taken back; 0 is that of the
        installation.
    :param before: SHA-256 of the archive that the host had; empty if that is the installation's.
    :param files: paths that differ from what the host had.
    """

    state: str
    number: int | None = None
    reason: str = ""
    before: str = ""
    files: tuple[str, ...] = field(default=())

    @property
    def changed(self) -> bool:
        return self.state in (DIFFERS, APPLIED)

    def as_dict(self) -> dict[str, Any]:
        """For results."""
        return {**asdict(self), "files": list(self.files)}

    def line(self, host: str) -> str:
        """For people."""
        files = f"{len(self.files)} file{'' if len(self.files) == 1 else 's'}"
        said = {
            UNCHANGED: f"has configuration {self.number} already",
            DIFFERS: f"would get another configuration: {files} differ from number {self.number}",
            APPLIED: f"configuration {self.number} is in force: {files} changed",
            REFUSED: f"refused configuration {self.number or ''}".rstrip() + f": {self.reason}",
            WENT_BACK: f"went back from configuration {self.number}: {self.reason}",
            UNREACHABLE: f"cannot be reached: {self.reason}",
            SILENT: f"says nothing of configuration {self.number}: {self.reason}",
        }[self.state]
        return f"{host}: {said}"


def bring(orders: list[Order], *, check: bool, at_once: int, patience: float, pause: float = 1.0) -> dict[str, Outcome]:
    """Bring all of them.

    :param check: only look which hosts have another one.
    :param at_once: hosts that are treated at the same time.
    :param patience: seconds until a host that says nothing is given up.
    :param pause: seconds between two visits.
    :returns: by host.
    """
    with ThreadPoolExecutor(max(1, min(at_once, len(orders)))) as pool:
        done = pool.map(lambda order: _bring(order, check=check, patience=patience, pause=pause), orders)
        return {order.host: outcome for order, outcome in zip(orders, done, strict=True)}


def _bring(order: Order, *, check: bool, patience: float, pause: float) -> Outcome:
    wanted = order.configuration
    try:
        with visit(order.account) as drop:
            told = _status(drop.read(_STATUS))
            listed = (drop.read(_FILES) or b"").decode("utf-8", "replace").splitlines()
            present = told["present"]
            number, before = int(present["number"]), str(present["sha256"])
            lists = told["revocations"]
            if not check and int(lists["known"]) < order.crl_number:
                drop.write(_LIST, order.crl)
            if before == wanted.sha256:
                return Outcome(UNCHANGED, number, before=before)
            files = _differing(set(listed), wanted.lines())
            if check:
                return Outcome(DIFFERS, number, before=before, files=files)
            last = (told["last"] or {}).get("number")
            had = [number, *([last] if isinstance(last, int) else [])]
            # Numbers of before a list was made bind nobody: whoever stole a key may have used up all that there are.
            same = int(lists["seen"]) >= order.crl_number
            number = next_number(dt.datetime.now(dt.UTC), had if same else [])
            signed = order.sign(number)
            drop.write(_ARCHIVE, wanted.content)
            drop.write(_SIGNED, signed)
    except Unreachable as exc:
        return Outcome(UNREACHABLE, reason=str(exc))
    state, number, reason = _follow(order, number, signed, patience=patience, pause=pause)
    return Outcome(state, number, reason, before, files)


def _follow(order: Order, number: int, signed: bytes, *, patience: float, pause: float) -> tuple[str, int, str]:
    """Come again until the host says what became of it; that we can come is what lets it keep the configuration."""
    received, deadline = hashlib.sha256(signed).hexdigest(), time.monotonic() + patience
    problem = "it has not looked at it"
    while time.monotonic() < deadline:
        time.sleep(pause)
        try:
            with visit(order.account) as drop:
                last = _status(drop.read(_STATUS))["last"] or {}
                if last.get("received") != received:
                    continue
                if last["state"] != _TRYING:
                    return str(last["state"]), number, str(last["reason"])
                problem = "it has not decided"
                drop.write(_CONFIRMATION, f"{number}\n".encode())
        except Unreachable as exc:
            problem = str(exc)
    return SILENT, number, problem


def _status(content: bytes | None) -> Mapping[str, Any]:
    """What the machine says of itself.

    :raises Unreachable: it says nothing that we understand.
    """
    if content is None:
        raise Unreachable("it takes no configurations: its product lacks role configuration_client")
    try:
        told: dict[str, Any] = json.loads(content)
        known = told["format"] == _FORMAT and {"number", "sha256"} <= set(told["present"]) and "last" in told
        known = known and {"seen", "known"} <= set(told["revocations"])
    except (ValueError, TypeError, KeyError):
        known = False
    if not known:
        raise Unreachable(f"it says nothing of format {_FORMAT} in /result/{_STATUS}")
    return told


def _differing(old: set[str], new: set[str]) -> tuple[str, ...]:
    paths = {line.partition("  ")[2] for line in old ^ new}
    return tuple(sorted(path for path in paths if not path.startswith(_ELSEWHERE)))
