# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each program that judges rendered files finds a fault in one, and names the file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from sdk import SDK

from ansible_collections.vauban.fleet.plugins.module_utils._image import inside
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind
from ansible_collections.vauban.fleet.plugins.module_utils._site import inspection
from ansible_collections.vauban.fleet.plugins.plugin_utils import _confinement
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.load import load
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.render import Renderer
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.store import TREES, Store
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.views.host import Views
from ansible_collections.vauban.fleet.plugins.plugin_utils._step import COLLECTION, sandbox_at

ROOT = Path(__file__).resolve().parents[2]
HOSTS = ("paris-gw1", "paris-files1", "paris-laptop-01", "paris-laptop-02", "paris-logs1", "paris-time1")
USERS = ("_chrony", "_rsyslog", "ipsec", "keepalived", "systemd-network", "update")
CONNECTIONS = "etc/swanctl/conf.d/connections.conf"
PAIR = "etc/keepalived/keepalived.conf"
UNITS = "etc/systemd/system"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some hosts of the example site, rendered; paths in it are ``HOST/etc/...``."""
    if not SDK.exists():
        pytest.skip(f"no SDK at {SDK}: run 'make build', or set FLEET_SDK")
    directory = tmp_path_factory.mktemp("site")
    plan = load(ROOT / "inventories/example_site/example.site.yml").plan
    renderer, store = Renderer(Views(plan), COLLECTION / "roles", plan.authorities), Store(directory)
    for name in HOSTS:
        (directory / name).symlink_to(f"{TREES}/{store.write(renderer.tree(name))}")
    for name in HOSTS:
        shutil.copytree(directory / name, directory / "trees" / name)
    return directory / "trees"


def judge(site: Path, jobs: dict[str, list[str]], commands: dict[str, list[str]] | None = None) -> dict[str, str]:
    binds = [Bind(site, inspection.SITE), Bind(COLLECTION / "roles", inspection.ROLES)]
    found: dict[str, str] = inside.call(
        sandbox_at(str(SDK), site.parent),
        "_site.inspection.inspect",
        {"jobs": jobs, "users": USERS, "commands": commands or {}},
        binds=binds,
        epoch=0,
        log=site.parent / "log",
    )
    return found


def test_nothing_is_wrong_with_the_example(site: Path) -> None:
    patterns = {
        "nftables": "etc/nftables.d/*.nft",
        "strongswan": CONNECTIONS,
        "sshd": "etc/vauban/admin_access/*.conf",
        "chrony": "etc/chrony/chrony.conf",
        "rsyslog": "etc/vauban/logging/*.conf",
        "networkd": "etc/systemd/network/*",
        "keepalived": PAIR,
    }
    jobs = {
        kind: [str(path.relative_to(site)) for path in site.glob(f"*/{pattern}")] for kind, pattern in patterns.items()
    }
    assert all(jobs.values())
    assert judge(site, {**jobs, "units": list(HOSTS)}) == {}


def test_neighbours_in_rulesets_of_different_hosts_are_no_fault(site: Path, tmp_path: Path) -> None:
    near = tmp_path / "trees"
    shutil.copytree(site, near)
    paths = []
    for host, address in zip(HOSTS[1:], ("192.0.2.11", "192.0.2.12", "192.0.2.75", "192.0.2.76"), strict=False):
        paths.append(f"{host}/etc/nftables.d/host.nft")
        text = (near / paths[-1]).read_text()
        assert "192.0.2.10\n" in text
        (near / paths[-1]).chmod(0o644)
        (near / paths[-1]).write_text(text.replace("192.0.2.10\n", f"{address}\n"))
    assert judge(near, {"nftables": paths}) == {}


@pytest.mark.parametrize(
    ("kind", "path", "before", "after", "said"),
    [
        ("nftables", "paris-laptop-01/etc/nftables.d/host.nft", "policy drop", "policy dorp", "syntax error"),
        (
            "nftables",
            "paris-laptop-01/etc/nftables.d/high.nft",
            "daddr @file",
            "daddr @flie",
            "No such file or directory",
        ),
        ("nftables", "paris-laptop-01/etc/nftables.d/logs_time.nft", '"_chrony"', '"nobdy"', "User does not exist"),
        ("strongswan", f"paris-laptop-01/{CONNECTIONS}", "if_id_in = 1", "if_idd_in = 1", "unknown option: if_idd_in"),
        (
            "strongswan",
            f"paris-gw1/{CONNECTIONS}",
            "start_action = trap",
            "start_action = tarp",
            "invalid value for: start_action",
        ),
        ("strongswan", f"paris-laptop-02/{CONNECTIONS}", "site.pem", "other.pem", "other.pem"),
        (
            "sshd",
            "paris-gw1/etc/vauban/admin_access/admin.conf",
            "PermitRootLogin no",
            "PermitRootLogin maybe",
            "maybe",
        ),
        ("chrony", "paris-laptop-01/etc/chrony/chrony.conf", "makestep", "maekstep", "Invalid directive at line"),
        ("rsyslog", "paris-laptop-01/etc/vauban/logging/forward.conf", "omrelp", "omprelp", "omprelp"),
        ("rsyslog", "paris-logs1/etc/vauban/logging/collect.conf", "dynaFile", "dynFile", "omfile: either the"),
        ("keepalived", f"paris-gw1/{PAIR}", "nopreempt", "nopreemt", "Unknown keyword 'nopreemt'"),
        ("keepalived", f"paris-gw1/{PAIR}", "    192.0.2.12", "    192.0.300.12", "malformed unicast peer"),
        ("keepalived", f"paris-gw1/{PAIR}", "/usr/bin/grep", "/usr/bin/gerp", "Disabling track script charon"),
        ("networkd", "paris-files1/etc/systemd/network/20-outer.network", "Address=", "Adress=", "Adress"),
        (
            "networkd",
            "paris-files1/etc/systemd/network/20-outer.network",
            "Address=192.0.2.",
            "Address=192.0.300.",
            "192.0.300",
        ),
    ],
)
def test_fault_is_found(site: Path, tmp_path: Path, kind: str, path: str, before: str, after: str, said: str) -> None:
    """Among files that are in order, which stay so."""
    broken = tmp_path / "trees"
    shutil.copytree(site, broken)
    text = (broken / path).read_text()
    assert before in text
    (broken / path).chmod(0o644)
    (broken / path).write_text(text.replace(before, after))
    others = [f"{name}/{path.partition('/')[2]}" for name in HOSTS]
    found = judge(broken, {kind: [path, *(other for other in others if other != path and (broken / other).exists())]})
    assert set(found) == {path}
    assert said in found[path]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("NetworkNamespacePath=", "NetworkNamespacPath=", "NetworkNamespacPath"),
        ("BindsTo=tunnel@", "BindsTo=tunel@", "tunel@"),
    ],
)
def test_fault_in_a_drop_in_is_found(site: Path, tmp_path: Path, before: str, after: str, said: str) -> None:
    broken = tmp_path / "trees"
    shutil.copytree(site, broken)
    path = broken / f"paris-laptop-01/{UNITS}/chrony.service.d/30-tunnel.conf"
    path.chmod(0o644)
    path.write_text(path.read_text().replace(before, after))
    found = judge(broken, {"units": list(HOSTS)})
    assert set(found) == {"paris-laptop-01"}
    assert said in found["paris-laptop-01"]


@pytest.mark.parametrize(
    ("unit", "changed", "said"),
    [
        ("rsyslog.service", {}, None),
        ("rsyslog.service", {"NoNewPrivileges": False, "SystemCallFilter": []}, "rsyslog.service: "),
        ("sshd@admin.service", {}, None),
        (
            "sshd@admin.service",
            {"NoNewPrivileges": False, "SystemCallFilter": []},
            "sshd@admin.service: ",
        ),
        ("of_the_site.service", {}, None),
        ("of_the_site.service", {"NoNewPrivileges": False, "SystemCallFilter": []}, "of_the_site.service: "),
    ],
)
def test_unit_more_exposed_than_is_accepted_is_found(
    site: Path, tmp_path: Path, unit: str, changed: dict[str, Any], said: str | None
) -> None:
    """Beside what else the host says about the unit."""
    loosened = shutil.copytree(site, tmp_path / "trees")
    settings = {"settings": changed, "reasons": dict.fromkeys(changed, "a test")}
    (dropin,) = _confinement.dropins([{"name": unit, "profile": "network_service", **settings}])
    name = f"paris-laptop-01/{UNITS}/{unit}.d/50-confinement.conf"
    (loosened / name).parent.mkdir(exist_ok=True)
    (loosened / name).write_text("\n".join(["[Service]", *dropin.lines, ""]))
    found = judge(loosened, {"exposure": [name]}, {name: dropin.as_dict()["check"]})
    assert judge(loosened, {"units": ["paris-laptop-01"]}) == {}
    if said is None:
        assert found == {}
    else:
        assert "Overall exposure level for" in found[name]
        assert said in found[name]
