# Copyright: (c) 2026, the vauban.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sites of 1 000 and 10 000 hosts rendered and judged, beside Ansible's own tasks over the same hosts.

    tests/bench/render.py [--files N] [HOSTS ...]

Template tasks are measured on the smallest of the sites, with N of the almost 90 files that a host gets; ours with
all. They use the roles' own templates with the same variables, write into directories that are there, and judge
nothing; what they write must be what we write.
"""

from __future__ import annotations

import argparse
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
# The same templates, variables and hosts as a playbook without us would have them: a task for each file, and variables
# in group_vars and host_vars. Templates that stand for the elements of a list are left out: their task would write
# several files.
PLAIN = f"""
import json, sys
from pathlib import Path
import yaml
from {PACKAGE} import load, render
from {PACKAGE}.views.host import Views
from ansible_collections.vauban.fleet.plugins.plugin_utils._tree import sources
site, roles, work, wanted = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
plan = load.load(site).plan
views = Views(plan)
renderer = render.Renderer(views, roles, plan.authorities)
members = {{name: views.variables(name) for name in plan.members}}
common = sorted(set.intersection(*(set(variables) for variables in members.values())))
found = [source for role in common for source in sources(roles / role / render.TEMPLATES)]
found = [source for source in found if source.template and source.variable is None]
if not 0 < wanted <= len(found):
    sys.exit(f"--files: from 1 to {{len(found)}}")
chosen = [found[number * len(found) // wanted] for number in range(wanted)]
for role in common:
    if (defaults := roles / role / "defaults/main.yml").exists():
        (work / "group_vars/all").mkdir(parents=True, exist_ok=True)
        (work / "group_vars/all" / f"{{role}}.yml").write_text(defaults.read_text())
(work / "host_vars").mkdir()
for name, variables in members.items():
    values = {{name: value for role in common for name, value in variables[role].items()}}
    (work / "host_vars" / f"{{name}}.json").write_text(json.dumps(values))
    files = renderer.tree(name).files
    for source in chosen:
        for place in ("plain", "expected"):
            (work / place / name / source.dest).parent.mkdir(parents=True, exist_ok=True)
        (work / "expected" / name / source.dest).write_bytes(files[source.dest].data)
(work / "plain.yml").write_text(yaml.safe_dump({{"all": {{"hosts": dict.fromkeys(members)}}}}))
dest = f"{{work}}/plain/{{{{{{{{ inventory_hostname }}}}}}}}"
pairs = [{{"src": str(each.path), "dest": f"{{dest}}/{{each.dest}}"}} for each in chosen]
tasks = [{{"ansible.builtin.template": pair}} for pair in pairs]
variables = {{"ansible_connection": "local", "ansible_python_interpreter": sys.executable}}
files = [str(path) for role in common for path in (roles / role).glob("vars/main.yml")]
play = {{"hosts": "all", "gather_facts": False, "vars": variables, "vars_files": files, "tasks": tasks}}
(work / "play.yml").write_text(yaml.safe_dump([play]))
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


def template_tasks(hosts: int, files: int, work: Path) -> float:
    """So many template tasks for each host of the site."""
    directory = work / "tasks"
    directory.mkdir()
    site = work / f"site{hosts}/big.site.yml"
    command("-c", PLAIN, str(site), str(ROOT / "roles"), str(directory), str(files))
    what = f"{hosts} hosts: template tasks for {files} file{'s' if files > 1 else ''}"
    used = measured(what, lambda: playbook(directory / "plain.yml", directory / "play.yml"))
    for path in (directory / "expected").rglob("*"):
        written = directory / "plain" / path.relative_to(directory / "expected")
        if path.is_file() and written.read_bytes() != path.read_bytes():
            raise SystemExit(f"{written} is not what we render")
    return used


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hosts", type=int, nargs="*", default=[SMALL, LARGE])
    parser.add_argument("--files", type=int, default=1)
    arguments = parser.parse_args()
    adopt_orphans()
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as directory:
        work = Path(directory)
        inventories(work)
        costs = {hosts: ours(hosts, work) for hosts in arguments.hosts}
        compared = min(costs)
        plain = template_tasks(compared, arguments.files, work)
        rendered, judged = costs[compared]
        print(f"{'':<60} {plain / rendered:8.0f} times ours, which renders all files")
        print(f"{'':<60} {plain / judged:8.0f} times ours, which judges them, too")


if __name__ == "__main__":
    main()
