# Copyright: (c) 2026, the vauban.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sites of 1 000 and 10 000 hosts rendered and judged, beside Ansible's own tasks over the same hosts.

    tests/bench/render.py [HOSTS ...]

Template tasks are measured with one of the about 70 files that a host gets, on 1 000 hosts; ours with all files.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from cpu import adopt_orphans, cpu_seconds
from memory import Peak
from sites import ROOT, write

COLLECTIONS = ROOT / "build/collections"
SMALL, LARGE = 1_000, 10_000
INVENTORY = 5_000
PACKAGE = "ansible_collections.vauban.fleet.plugins.plugin_utils._site"
# What the playbook does before files are judged, and no more.
RENDER = f"""
import sys
from pathlib import Path
from {PACKAGE} import load, render, store
from {PACKAGE}.views.host import Views
loaded = load.load(Path(sys.argv[1]))
renderer = render.Renderer(Views(loaded.plan), Path(sys.argv[2]), loaded.plan.authorities)
output = store.Store(Path(sys.argv[3]))
trees = {{name: output.write(renderer.tree(name)) for name in loaded.plan.members}}
output.switch(trees, keep=trees)
"""


def measured(what: str, run: Callable[[], object]) -> float:
    """Print and return what a step costs."""
    before, started = cpu_seconds(), time.monotonic()
    with Peak() as peak:
        run()
    used = cpu_seconds() - before
    print(f"{what:<60} {used:8.1f} CPU s {time.monotonic() - started:7.0f} s {peak.bytes / 2**20:6.0f} MiB", flush=True)
    return used


def command(*words: str) -> None:
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        "PYTHONPATH": str(COLLECTIONS),
        "LC_ALL": "C.UTF-8",
    }
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stdout[-3000:] + done.stderr[-3000:])


def playbook(inventory: Path, path: Path, **variables: str) -> None:
    command("-m", "ansible", "playbook", "-i", str(inventory), str(path), "-e", json.dumps(variables))


def ours(hosts: int, work: Path) -> tuple[float, float]:
    """Print what each step costs; return that of rendering alone, and of the first run, judging included."""
    inventory, output = work / f"site{hosts}", work / f"sites{hosts}"
    inventory.mkdir()
    site = inventory / "big.site.yml"
    write(site, hosts)
    roles = str(ROOT / "roles")
    rendered = measured(
        f"{hosts} hosts: render only", lambda: command("-c", RENDER, str(site), roles, str(work / "only"))
    )
    shutil.rmtree(work / "only")
    places = {"fleet_build_dir": str(ROOT / "build"), "fleet_sites_dir": str(output)}

    def run() -> None:
        playbook(inventory, ROOT / "playbooks/render.yml", **places)

    first = measured(f"{hosts} hosts: render and judge", run)
    again = measured(f"{hosts} hosts: nothing changed", run)
    print(f"{'':<60} {again / first:8.2f} of the first run")
    site.write_text(site.read_text().replace("udp: [123]", "udp: [124]"))
    measured(f"{hosts} hosts: one service changed", run)
    shutil.rmtree(output)
    return rendered, first


def template_tasks(hosts: int, work: Path) -> float:
    """One template task for each of as many hosts, with the variables that its file needs."""
    names = {
        f"host-{number}": {"name": f"host-{number}", "address": f"10.0.{number // 250}.{number % 250}"}
        for number in range(hosts)
    }
    (work / "plain.yml").write_text(yaml.safe_dump({"all": {"hosts": names}}))
    (work / "one.conf.j2").write_text("connections {\n  {{ name }} {\n    local_addrs = {{ address }}\n  }\n}\n")
    task = {"ansible.builtin.template": {"src": str(work / "one.conf.j2"), "dest": f"{work}/plain/{{{{ name }}}}.conf"}}
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    play = {"hosts": "all", "gather_facts": False, "vars": local, "tasks": [task]}
    (work / "plain-play.yml").write_text(yaml.safe_dump([play]))
    (work / "plain").mkdir()
    return measured(
        f"{hosts} hosts: a template task for one file", lambda: playbook(work / "plain.yml", work / "plain-play.yml")
    )


def inventories(work: Path) -> None:
    """The same hosts with the same variables, by our plugin and by that of Ansible."""
    directory = work / "inventory"
    directory.mkdir()
    write(directory / "big.site.yml", INVENTORY)
    listed = "-m", "ansible", "inventory", "--list", "--output", str(work / "listed.json")
    measured(f"{INVENTORY} hosts: inventory plugin site", lambda: command(*listed, "-i", str(directory)))
    found = json.loads((work / "listed.json").read_text())
    groups = {name: {"hosts": dict.fromkeys(part["hosts"])} for name, part in found.items() if part.get("hosts")}
    hosts = {name: dict(values) for name, values in found["_meta"]["hostvars"].items()}
    (work / "same.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts, "children": groups}}))
    measured(f"{INVENTORY} hosts: Ansible's YAML plugin", lambda: command(*listed, "-i", str(work / "same.yml")))


def main() -> None:
    """Print the figures."""
    adopt_orphans()
    counts = [int(word) for word in sys.argv[1:]] or [SMALL, LARGE]
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as directory:
        work = Path(directory)
        inventories(work)
        costs = {hosts: ours(hosts, work) for hosts in counts}
        if SMALL in costs:
            plain = template_tasks(SMALL, work)
            rendered, judged = costs[SMALL]
            print(f"{'':<60} {plain / rendered:8.0f} times ours, which renders all files")
            print(f"{'':<60} {plain / judged:8.0f} times ours, which judges them, too")


if __name__ == "__main__":
    main()
