# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import datetime as dt
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.vauban.fleet.plugins.module_utils._atomic import write_bytes, write_json
from ansible_collections.vauban.fleet.plugins.plugin_utils import _changes
from ansible_collections.vauban.fleet.plugins.plugin_utils._action import ControllerAction
from ansible_collections.vauban.fleet.plugins.plugin_utils._configure import drop, fleet
from ansible_collections.vauban.fleet.plugins.plugin_utils._configure.drop import Account
from ansible_collections.vauban.fleet.plugins.plugin_utils._configure.fleet import Order, Outcome
from ansible_collections.vauban.fleet.plugins.plugin_utils._configure.statement import KEY, Author, Configuration
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision import configurations
from ansible_collections.vauban.fleet.plugins.plugin_utils._site import load
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.load import LoadedSite
from ansible_collections.vauban.fleet.plugins.plugin_utils._step import sandbox_at

_MEMORY = ".configured"  # what hosts were given last, beside the site's trees
_HOSTS = "hosts.json"


class ActionModule(ControllerAction):
    """Packs, signs, brings and follows. One call for the whole fleet."""

    SPEC: ClassVar[dict[str, Any]] = {
        "site_file": {"type": "path", "required": True},
        "hosts": {"type": "list", "elements": "str", "required": True},
        "trees": {"type": "path", "required": True},
        "keys": {"type": "path", "required": True},
        "key_uris": {"type": "dict", "default": {}},
        "key_token": {"type": "path"},
        "sdk": {"type": "path", "required": True},
        "user": {"type": "str", "default": "admin"},
        "port": {"type": "int", "default": 22},
        "private_key": {"type": "path"},
        "known_hosts": {"type": "path", "default": "~/.ssh/known_hosts"},
        "at_once": {"type": "int", "default": 50},
        "patience": {"type": "int", "default": 300},
    }

    def act(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """A host that refuses or is not there holds up no other."""
        drop.check_library()
        loaded = load.load(Path(arguments["site_file"]))
        hosts, check = loaded.hosts(arguments["hosts"]), bool(self._task.check_mode)
        site = Path(arguments["trees"]) / loaded.plan.site.site
        pki = (loaded.file.parent / loaded.plan.site.pki.directory).resolve() if loaded.plan.site.tunnels else None
        if pki is not None:
            configurations.check_lists(pki)
        with tempfile.TemporaryDirectory(prefix="vauban-configure-") as name:
            work = Path(name)
            packed = configurations.pack(site, hosts, pki, work)
            found = {sha256: Configuration.read(work / sha256) for sha256 in set(packed.values())}
            wanted = {host: found[packed[host]] for host in hosts}
            authors = self._authors(arguments, loaded, hosts, work)
            orders = []
            for host in hosts:
                author = authors[loaded.plan.members[host].host.product]
                sign = partial(_sign, author, host, wanted[host], work)
                account = self._account(arguments, host)
                orders.append(Order(host, account, wanted[host], sign, author.crl, author.crl_number))
            done = fleet.bring(orders, check=check, at_once=arguments["at_once"], patience=float(arguments["patience"]))
        memory = site / _MEMORY
        result: dict[str, Any] = {
            "changed": any(outcome.changed for outcome in done.values()),
            "hosts": {host: outcome.as_dict() for host, outcome in done.items()},
            "table": [outcome.line(host) for host, outcome in done.items()],
            "missing": [host for host, outcome in done.items() if outcome.state not in fleet.GOOD],
        }
        if self._task.diff:
            result["diff"] = _diff(memory, wanted, done)
        if not check:
            _remember(
                memory, {host: wanted[host] for host in hosts if done[host].state in (fleet.APPLIED, fleet.UNCHANGED)}
            )
        return result

    def _authors(
        self, arguments: Mapping[str, Any], loaded: LoadedSite, hosts: Iterable[str], work: Path
    ) -> dict[str, Author]:
        sandbox = sandbox_at(arguments["sdk"], work)
        products = dict.fromkeys(loaded.plan.members[name].host.product for name in hosts)
        token = Path(arguments["key_token"]) if arguments["key_token"] else None
        key = (arguments["key_uris"][KEY], token) if KEY in arguments["key_uris"] else None
        return {name: Author(name, Path(arguments["keys"]) / name, sandbox, key=key) for name in products}

    def _account(self, arguments: Mapping[str, Any], host: str) -> Account:
        """As the inventory says, where it says something of a host."""
        known = self.task_vars.get("hostvars", {}).get(host, {})
        key = known.get("ansible_ssh_private_key_file") or arguments["private_key"]
        return Account(
            address=str(known.get("ansible_host") or host),
            port=int(known.get("ansible_port") or arguments["port"]),
            user=arguments["user"],
            key=Path(str(key)).expanduser() if key else None,
            known=Path(arguments["known_hosts"]).expanduser(),
        )


def _sign(author: Author, host: str, configuration: Configuration, work: Path, number: int) -> bytes:
    return author.sign(host, number, configuration, now=dt.datetime.now(dt.UTC), work=work)


def _given(memory: Path) -> dict[str, str]:
    """SHA-256 of what each host was given last."""
    try:
        known = json.loads((memory / _HOSTS).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(host): str(sha256) for host, sha256 in known.items()} if isinstance(known, dict) else {}


def _remember(memory: Path, had: Mapping[str, Configuration]) -> None:
    """Keep what hosts have now, so that the next run can show what changes."""
    memory.mkdir(parents=True, exist_ok=True)
    given = {**_given(memory), **{host: configuration.sha256 for host, configuration in had.items()}}
    for configuration in had.values():
        if not (memory / configuration.sha256).exists():
            write_bytes(memory / configuration.sha256, configuration.content)
    write_json(memory / _HOSTS, given)
    for name in set(os.listdir(memory)) - {_HOSTS, *given.values()}:
        (memory / name).unlink()


def _diff(memory: Path, wanted: Mapping[str, Configuration], done: Mapping[str, Outcome]) -> list[dict[str, str]]:
    """What changes, the same change on many hosts shown once, and first what changes on most of them."""
    found: dict[tuple[str, str], list[str]] = {}
    seen: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for host, outcome in done.items():
        if outcome.state == fleet.UNCHANGED or outcome.state == fleet.UNREACHABLE:
            continue
        pair = (outcome.before, wanted[host].sha256)
        if pair not in seen or not (memory / outcome.before).is_file():
            seen[pair] = list(_between(memory / outcome.before, wanted[host], outcome.files))
        for change in seen[pair]:
            found.setdefault(change, []).append(host)
    return _changes.shown(found)


def _between(before: Path, after: Configuration, files: Iterable[str]) -> Iterable[_changes.Change]:
    """Path and text of each change. Where what the host has was brought by another controller, only the path."""
    if not before.is_file():
        return [(path, "(what the host has is not known here)\n") for path in files]
    return _changes.between(Configuration.read(before).texts(), after.texts())
