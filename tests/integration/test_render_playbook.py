# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbook render, on the example site and on sites that the real tools refuse."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from playing import ansible_playbook

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "inventories/example_site/example.site.yml"

Play = Callable[..., subprocess.CompletedProcess[str]]
Edit = Callable[[str, str], None]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A copy of the example site."""
    (tmp_path / "inventory").mkdir()
    return Path(shutil.copy(EXAMPLE, tmp_path / "inventory"))


@pytest.fixture
def trees(tmp_path: Path) -> Path:
    return tmp_path / "sites/example"


@pytest.fixture
def edit(site: Path) -> Edit:
    """Replace a text that stands in the site file."""

    def call(before: str, after: str) -> None:
        text = site.read_text()
        assert before in text
        site.write_text(text.replace(before, after))

    return call


@pytest.fixture
def play(site: Path, tmp_path: Path) -> Play:
    """Run the playbook with the SDK of the checkout."""
    return partial(run, site, tmp_path)


def run(site: Path, directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    settings = {"fleet_build_dir": str(ROOT / "build"), "fleet_sites_dir": str(directory / "sites")}
    words = ["-i", str(site.parent), str(ROOT / "playbooks/render.yml"), "-e", json.dumps(settings), *options]
    return ansible_playbook(directory, *words, ANSIBLE_CONFIG=str(ROOT / "ansible.cfg"))


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the playbook makes of the example site."""
    directory = tmp_path_factory.mktemp("example")
    done = run(EXAMPLE, directory)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory / "sites"


@pytest.fixture
def rendered(example: Path, trees: Path) -> dict[str, str]:
    """The example site is rendered already. Tree by host."""
    shutil.copytree(example, trees.parent, symlinks=True)
    return state(trees)


@pytest.fixture
def render(play: Play) -> Callable[..., str]:
    """Run it, which has to succeed; what was printed."""

    def call(*options: str) -> str:
        done = play(*options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return call


def state(trees: Path) -> dict[str, str]:
    """Tree by host."""
    return {path.name: os.readlink(path) for path in trees.iterdir() if path.is_symlink()}


def test_check_do_check_do(render: Callable[..., str], trees: Path) -> None:
    foreseen = render("--check", "--diff")
    assert "40 hosts: 40 change" in foreseen
    assert "paris-gw1 and 39 more: /etc/vauban/tunnels/audit.release" in foreseen
    assert not trees.exists() or state(trees) == {}
    assert "40 hosts: 40 changed" in render()
    before = state(trees)
    assert len(before) == 40
    stamps = {path: path.stat().st_mtime_ns for path in trees.rglob("*")}
    assert "40 hosts: nothing changed" in render("--check")
    assert "40 hosts: nothing changed" in render()
    assert state(trees) == before
    assert {path: path.stat().st_mtime_ns for path in trees.rglob("*")} == stamps
    assert os.access(trees / "report.html", os.R_OK)


def test_one_change_changes_the_hosts_it_concerns(
    rendered: dict[str, str], render: Callable[..., str], edit: Edit, trees: Path
) -> None:
    edit('mac: "52:54:00:01:00:17"', 'mac: "52:54:00:01:00:ff"')
    printed = render("--diff")
    assert "40 hosts: 1 changed" in printed
    assert "paris-files1: /etc/systemd/network/" in printed
    assert "+MACAddress=52:54:00:01:00:ff" in printed
    after = state(trees)
    assert [name for name in after if after[name] != rendered[name]] == ["paris-files1"]
    assert len(list((trees / ".trees").iterdir())) == len(set(after.values()))


def test_limit_leaves_the_others_as_they_are(render: Callable[..., str], edit: Edit, trees: Path) -> None:
    render("--limit", "place_lyon")
    assert all(name.startswith("lyon-") for name in state(trees))
    assert len(state(trees)) == 14
    render()
    before = state(trees)
    edit("udp: [123]", "udp: [1234]")
    assert "14 hosts: 14 changed" in render("--limit", "place_lyon")
    after = state(trees)
    assert {name for name in after if after[name] != before[name]} == {
        name for name in after if name.startswith("lyon-")
    }


@pytest.mark.usefixtures("rendered")
def test_host_that_left_the_site_loses_its_tree(render: Callable[..., str], edit: Edit, trees: Path) -> None:
    edit("nantes-laptop-[01:03]", "nantes-laptop-[01:02]")
    assert "1 removed" in render()
    assert "nantes-laptop-03" not in state(trees)


def test_refused_by_the_tool_nothing_changes_for_anybody(
    rendered: dict[str, str], play: Play, edit: Edit, trees: Path
) -> None:
    """The model takes any raw rule; nft does not."""
    rule = "{zone: laptops, ruleset: high, chain: output, rule: tcp dport nosuchport accept, reason: a test}"
    edit("\ntime:\n", f"\nraw:\n  - {rule}\n\ntime:\n")
    done = play()
    assert done.returncode == 2
    assert "21 of 40 hosts are refused; none was changed" in done.stdout
    assert re.search(
        r"paris-laptop-01 and 20 more: /etc/nftables.d/high.nft: .*nosuchport", done.stdout.replace("\n", " ")
    )
    assert state(trees) == rendered
    assert len(list((trees / ".trees").iterdir())) == len(set(rendered.values()))


def test_inventory_without_a_site_is_no_empty_site(play: Play, site: Path) -> None:
    site.rename(site.with_name("example.yml"))  # a name that the site plugin leaves to others
    site.with_name("example.yml").write_text("all: {}\n")
    done = play()
    assert done.returncode == 2
    assert "there is no host of a site" in done.stdout
    assert "enable_plugins = vauban.fleet.site" in done.stdout


def test_unit_that_is_too_exposed_is_refused_with_what_to_change(
    rendered: dict[str, str], play: Play, edit: Edit, site: Path, trees: Path
) -> None:
    edit(
        'SystemCallFilter: ["@system-service", "~@privileged", "~@resources", "sched_setscheduler"]',
        "NoNewPrivileges: no",
    )
    edit("SystemCallFilter: each", "NoNewPrivileges: each")
    edit("      TasksMax: 64", "      SystemCallFilter: []")
    edit("TasksMax: a thread", "SystemCallFilter: a thread")
    done = play()
    assert done.returncode == 2
    assert "2 of 40 hosts are refused; none was changed" in done.stdout
    printed = " ".join(done.stdout.split())
    assert (
        "log-collector.service.d/50-confinement.conf: → Overall exposure level for log-collector.service: " in printed
    )
    line = next(number for number, text in enumerate(site.read_text().splitlines(), 1) if text == "    settings:")
    assert (
        f"{site}:{line}: confinement[0].settings: log-collector.service may be exposed to 2 at most. Remedy:" in printed
    )
    assert state(trees) == rendered


def test_profile_of_the_site_is_judged_as_those_of_the_collection(
    rendered: dict[str, str], play: Play, edit: Edit, site: Path, trees: Path
) -> None:
    """It lies beside the site file. Only its limit changes between the runs, not what the unit may do."""
    (site.parent / "confinement").mkdir()
    profile = site.parent / "confinement/own.yml"
    own = {
        "description": "a test",
        "extends": "network_service",
        "settings": {"UMask": "0027"},
        "reasons": {"UMask": "so"},
    }
    edit("    profile: network_service", "    profile: own")
    edit("confinement:\n", "confinement_profile_directories: [confinement]\nconfinement:\n")
    profile.write_text(json.dumps({**own, "threshold": 2.0}))
    done = play()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    assert "40 hosts: 2 changed" in done.stdout
    dropin = "etc/systemd/system/log-collector.service.d/50-confinement.conf"
    assert "\nUMask=0027\n" in (trees / "paris-logs1" / dropin).read_text()
    after = state(trees)
    assert after != rendered
    profile.write_text(json.dumps({**own, "threshold": 0.5}))
    done = play()
    assert done.returncode == 2
    printed = " ".join(done.stdout.split())
    assert "2 of 40 hosts are refused; none was changed" in printed
    assert "log-collector.service may be exposed to 0.5 at most" in printed
    assert state(trees) == after


def test_wrong_site_ends_the_run_with_all_its_errors(play: Play, edit: Edit, site: Path, trees: Path) -> None:
    edit("if_id: 2", "if_id: 1")
    edit("via: high", "via: hihg")
    done = play()
    assert done.returncode == 4
    assert f"{site}:" in done.stderr
    assert "tunnels.audit.if_id: 1 is that of admin too. Remedy: give each tunnel its own" in done.stderr
    assert "there is no tunnel hihg" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not trees.exists()


def test_braces_in_a_site_stay_braces(render: Callable[..., str], edit: Edit, trees: Path) -> None:
    """What a site says is data, never a template."""
    edit("comment: auditors read journals", "comment: \"{{ lookup('pipe', 'id') }}\"")
    render()
    assert "{{ lookup('pipe', 'id') }}" in (trees / "paris-gw1/etc/nftables.d/audit.nft").read_text()


def test_no_inventory_of_a_site(play: Play, site: Path) -> None:
    site.rename(site.with_name("hosts.yml"))
    site.with_name("hosts.yml").write_text("all:\n  hosts:\n    nobody:\n")
    done = play()
    assert done.returncode == 2
    assert "Remedy: name an inventory with a file *.site.yml" in done.stdout
