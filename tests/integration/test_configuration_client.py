# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Role configuration_client, under systemd with all that confines it: what comes into force, what not, what goes back.

That the initrd mounts the same, and that a machine which lost its power goes back, takes a kernel:
e2e/test_configuration.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import hosts
import pytest
from configurations import INCOMING, NAME, SECONDS, STATE, Entry, Machine, archive, entries, entry, statement, tree
from configurations import machine as started

WITNESS = "etc__systemd__system__witness.service"
UNIT = """[Service]
Type=exec
ExecStart=/bin/sleep infinity
ProtectSystem=strict
BindReadOnlyPaths=/usr/lib/os-release:/etc/hostname
# {}
[Install]
WantedBy=multi-user.target
"""
WANTED = {"etc__systemd__system__multi-user.target.d__30-witness.conf": "[Unit]\nWants=witness.service\n"}
ARCHIVED = tree(22, **{WITNESS: UNIT.format("first")}, **WANTED)
KILLS = 24


@pytest.fixture(scope="module")
def machine(
    configured: tuple[Path, ...], server_keys: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    """Installed with a configuration that has a service of its own."""
    with started("machine", configured, server_keys, tmp_path_factory.mktemp("client"), ARCHIVED) as made:
        made.host("systemctl", "start", "witness.service")
        yield made


def number(machine: Machine) -> int:
    """One that is higher than all before."""
    last = (machine.result()["last"] or {}).get("number") or 0
    seen = machine.host.ask("cat", f"{STATE}/seen").stdout
    return max(int(last), int(seen.split()[-1] if seen else 0), int(machine.result()["present"]["number"])) + 1


def process(machine: Machine, unit: str) -> str:
    return machine.host("systemctl", "show", "--property=MainPID", "--value", unit).strip()


def seen_by(machine: Machine, unit: str, path: str) -> str:
    """A file as a service sees it."""
    return machine.host("cat", f"/proc/{process(machine, unit)}/root{path}")


def test_good_one_is_in_force(machine: Machine) -> None:
    new = {**ARCHIVED, **tree(22, 8006), "etc/chrony/chrony.conf": "port 0\n"}
    done = machine.bring(new, 1)
    assert done["state"] == "applied", (done, machine.host.journal())
    assert machine.result()["present"]["number"] == 1
    assert "dport 8006 accept" in machine.host("nft", "list", "ruleset")
    assert machine.host("cat", "/etc/nftables.d/host.nft") == new["etc/nftables.d/host.nft"]
    assert machine.host("cat", "/etc/chrony/chrony.conf") == "port 0\n"
    assert machine.host("cat", "/etc/machine-id").strip() == hosts.MACHINE_ID
    assert machine.in_force() == new


def test_next_ones_take_its_place(machine: Machine) -> None:
    """What is no longer in it is that of the core again, and neither of the old ones shines through."""
    core = machine.host("cat", "/etc/chrony/chrony.conf")
    for port in (8007, 8008, 8009):
        assert machine.bring({**ARCHIVED, **tree(22, port)}, number(machine))["state"] == "applied"
    assert machine.host("cat", "/etc/chrony/chrony.conf") != core
    ruleset = machine.host("nft", "list", "ruleset")
    assert "dport 8009 accept" in ruleset
    assert "dport 8007 accept" not in ruleset
    assert machine.host("findmnt", "--noheadings", "--output", "FSTYPE", "/etc").split()[-1] == "overlay"
    assert machine.host.ask("touch", "/etc/new").returncode != 0


def test_only_what_has_changed_starts_again(machine: Machine) -> None:
    """Who goes on sees what it saw at its start, with what is mounted over it; who starts again sees the new one."""
    before = process(machine, "witness.service")
    assert machine.bring({**ARCHIVED, "etc/witness": "1\n"}, number(machine))["state"] == "applied"
    assert process(machine, "witness.service") == before
    assert seen_by(machine, "witness.service", "/etc/hostname").startswith("IMAGE_ID=")
    changed = {**ARCHIVED, "etc/witness": "2\n", WITNESS.replace("__", "/"): UNIT.format("second")}
    assert machine.bring(changed, number(machine))["state"] == "applied"
    assert process(machine, "witness.service") != before
    assert seen_by(machine, "witness.service", "/etc/witness") == "2\n"
    assert seen_by(machine, "witness.service", "/etc/hostname").startswith("IMAGE_ID=")


def test_what_is_no_longer_wanted_is_stopped(machine: Machine) -> None:
    assert machine.host.state("witness.service") == "active"
    assert machine.bring(tree(22), number(machine))["state"] == "applied"
    assert machine.host.state("witness.service") == "inactive"
    assert machine.bring(ARCHIVED, number(machine))["state"] == "applied"
    machine.host("systemctl", "start", "witness.service")  # multi-user.target is not started here


def test_revocation_lists_go_to_the_state_volume(machine: Machine) -> None:
    """Where the core has a link, as role strongswan makes it."""
    listed = {**ARCHIVED, "etc/swanctl/x509crl/root.crl": "list\n"}
    assert machine.bring(listed, number(machine))["state"] == "applied"
    assert machine.host("cat", "/var/lib/vauban/ipsec/x509crl/root.crl") == "list\n"
    assert not (machine.host.root / STATE[1:] / "etc/swanctl/x509crl").exists()


Signed = tuple[bytes, bytes]
Prepare = Callable[[Machine], Signed]


def _statement(*, signer: str = "configuration", **changes: Any) -> Prepare:
    def make(machine: Machine) -> Signed:
        content = archive(entries(ARCHIVED))
        return content, machine.sign(statement(content, number(machine)) | changes, signer=signer)

    return make


def _files(**changes: str) -> Prepare:
    return _members(*entries({name.replace("__", "/"): text for name, text in changes.items()}))


def _members(*more: Entry) -> Prepare:
    """A configuration with these members, which take the place of those of the same name."""

    def make(machine: Machine) -> Signed:
        names = [member.name for member, _content in more]
        kept = [each for each in entries(ARCHIVED) if each[0].name not in names]
        content = archive([*kept, *more])
        return content, machine.sign(statement(content, number(machine)))

    return make


def _archive(content: bytes) -> Prepare:
    return lambda machine: (content, machine.sign(statement(content, number(machine))))


def _altered(part: int) -> Prepare:
    def make(machine: Machine) -> Signed:
        signed = list(_statement()(machine))
        where = signed[part].find(NAME.encode()) if part == 1 else len(signed[part]) // 2
        signed[part] = signed[part][:where] + bytes([signed[part][where] ^ 1]) + signed[part][where + 1 :]
        return signed[0], signed[1]

    return make


def _present(machine: Machine) -> Signed:
    content = archive(entries(ARCHIVED))
    return content, machine.sign(statement(content, machine.result()["present"]["number"]))


_BROKEN = tree(22)["etc/nftables.d/host.nft"].replace("dport { 22 } accept", "dport { 22 } acept")
_SSHD = tree(22, address="10.9.0.1")["etc/vauban/admin_access/admin.conf"] + "NoSuchOption yes\n"
_LINK = {"kind": tarfile.SYMTYPE, "linkname": "../var/lib"}


@pytest.mark.parametrize(
    ("prepare", "line"),
    [
        pytest.param(_statement(signer="publish"), "not signed with the product's key configuration", id="signer"),
        pytest.param(_altered(1), "not signed with the product's key configuration", id="altered statement"),
        pytest.param(_altered(0), "the archive is not the one that was signed", id="altered archive"),
        pytest.param(_statement(host="paris-files02"), f"for host paris-files02; this is {NAME}", id="host"),
        pytest.param(_statement(product="gateway"), "for product gateway; this machine is server", id="product"),
        pytest.param(_statement(revocations=2), "it wants list 2 of revoked certificates", id="list"),
        pytest.param(_statement(number=1), "number 1 is not higher than", id="lower number"),
        pytest.param(_present, "which this machine has had", id="same number"),
        pytest.param(_statement(number=1e300), "no configuration of format 1", id="number"),
        pytest.param(_statement(format=2), "no configuration of format 1", id="format"),
        pytest.param(_files(**{"etc__nftables.d__host.nft": _BROKEN}), "/etc/nftables.d/host.nft: ", id="nft"),
        pytest.param(
            _files(**{"etc__vauban__admin_access__admin.conf": _SSHD}), "admin_access/admin.conf: ", id="sshd"
        ),
        pytest.param(_files(**{"etc__chrony__chrony.conf": "servr x\n"}), "/etc/chrony/chrony.conf: ", id="chrony"),
        pytest.param(
            _files(**{"etc__systemd__system__chrony.service.d__x.conf": "[Service]\nNoSuchKey=1\n"}),
            "NoSuchKey",
            id="unit",
        ),
        pytest.param(_files(etc__hostname="paris-files02\n"), f"etc/hostname is not {NAME}", id="another name"),
        pytest.param(_members(entry("../evil")), "../evil: it is none below etc/", id="above"),
        pytest.param(_members(entry("etc/../../evil")), "etc/../../evil: it is none below etc/", id="up"),
        pytest.param(_members(entry("/etc/evil")), "/etc/evil: it is none below etc/", id="absolute"),
        pytest.param(_members(entry("var/evil")), "var/evil: it is none below etc/", id="elsewhere"),
        pytest.param(_members(entry("etc/machine-id")), "etc/machine-id: it is none below etc/", id="machine id"),
        pytest.param(_members(entry("etc/vauban/configuration/number")), "it is the machine's own", id="number file"),
        pytest.param(
            _members(entry("etc/evil", kind=tarfile.LNKTYPE, linkname="etc/hostname")),
            "etc/evil: it is neither a file nor a directory nor a symbolic link",
            id="hard link",
        ),
        pytest.param(
            _members(entry("etc/evil", kind=tarfile.CHRTYPE, devmajor=1)), "it is neither a file", id="device"
        ),
        pytest.param(_members(entry("etc/evil", kind=tarfile.FIFOTYPE)), "it is neither a file", id="fifo"),
        pytest.param(_members(entry("etc/evil", mode=0o4755)), "it has more rights than a file", id="setuid"),
        pytest.param(_members(entry("etc/evil", mode=0o664)), "others than root may change it", id="writable"),
        pytest.param(_members(entry("etc/evil", uid=800)), "it does not belong to root", id="owner"),
        pytest.param(
            _members(entry("etc/a", **_LINK), entry("etc/a/b")), "it stands below something", id="below a link"
        ),
        pytest.param(_members(entry("etc/a"), entry("etc/a", b"x")), "etc/a: it is there twice", id="twice"),
        pytest.param(_members(entry("etc/passwd/x")), "it stands below a file of the core", id="below a file"),
        pytest.param(_members(entry("etc/ssh")), "the place of a directory of the core", id="directory"),
        pytest.param(_members(entry("etc/a b")), "it has a name that no file of a configuration has", id="blank"),
        pytest.param(_members(entry("etc/a\nb")), "it has a name that no file", id="line feed"),
        pytest.param(_members(entry("etc/big", bytes(65 << 20))), "holds more than 67108864 bytes", id="65 MiB"),
        pytest.param(_archive(os.urandom((16 << 20) + 1)), "configuration.tar.gz has more than 16777216", id="16 MiB"),
        pytest.param(_archive(b"this is no archive"), "the archive is no gzip file", id="no gzip"),
        pytest.param(_archive(archive(entries(ARCHIVED))[:-40]), "the archive is no gzip file", id="truncated"),
    ],
)
def test_is_refused_with_a_line(machine: Machine, prepare: Prepare, line: str) -> None:
    before, seen = machine.in_force(), machine.host.ask("cat", f"{STATE}/seen").stdout
    content, signed = prepare(machine)
    machine.drop(content, signed)
    done = machine.outcome(signed)
    assert (done["state"], line in done["reason"]) == ("refused", True), done["reason"]
    assert machine.in_force() == before
    assert machine.host.ask("cat", f"{STATE}/seen").stdout == seen
    assert not list((machine.host.root / INCOMING[1:]).iterdir())
    assert f"refused: {done['reason'].splitlines()[0]}" in machine.host("journalctl", "--no-pager", "--lines=100")


def test_many_files_are_refused(machine: Machine) -> None:
    content, signed = _members(*(entry(f"etc/many/{each}") for each in range(20_001)))(machine)
    machine.drop(content, signed)
    assert "more than 20000 files" in machine.outcome(signed)["reason"]


def test_goes_back_unless_the_controller_comes_again(machine: Machine) -> None:
    before, rules = machine.in_force(), machine.host("nft", "list", "chain", "inet", "filter", "input")
    content = archive(entries({**ARCHIVED, **tree(8006)}))
    signed = machine.sign(statement(content, number(machine)))
    machine.drop(content, signed)
    assert machine.outcome(signed, ended=False)["state"] == "trying"
    assert "dport 8006 accept" in machine.host("nft", "list", "ruleset")
    done = machine.outcome(signed)
    assert (done["state"], done["reason"]) == ("went back", f"within {SECONDS} s: the controller did not come again")
    assert machine.in_force() == before
    assert machine.host("cat", "/etc/nftables.d/host.nft") == before["etc/nftables.d/host.nft"]
    assert "dport 8006" not in machine.host("nft", "list", "ruleset")
    assert rules.count("accept") == machine.host("nft", "list", "chain", "inet", "filter", "input").count("accept")
    # Nor is it tried again.
    machine.drop(content, signed)
    hosts.wait_for(lambda: machine.result()["last"]["state"] == "refused", "the refusal")


def test_goes_back_at_once_if_something_does_not_start(machine: Machine) -> None:
    before = machine.in_force()
    broken = UNIT.format("").replace("/bin/sleep infinity", "/bin/false").replace("Type=exec", "Type=oneshot")
    content = archive(entries({**ARCHIVED, WITNESS.replace("__", "/"): broken}))
    signed = machine.sign(statement(content, number(machine)))
    machine.drop(content, signed)
    done = machine.outcome(signed)
    assert done["state"] == "went back"
    assert "witness.service" in done["reason"]
    assert machine.in_force() == before
    assert machine.host.state("witness.service") == "active"


def test_goes_back_if_a_way_in_does_not_return(machine: Machine) -> None:
    """The ssh server ran before, is still wanted, and does not run: it listens where the machine has no address."""
    machine.host("systemctl", "start", "ssh-host-key.service")
    good = {**ARCHIVED, **tree(22, address="127.0.0.1")}
    assert machine.bring(good, number(machine))["state"] == "applied"
    machine.host("systemctl", "start", "sshd@admin.service")
    content = archive(entries({**ARCHIVED, **tree(22, address="192.0.2.1")}))
    signed = machine.sign(statement(content, number(machine)))
    machine.drop(content, signed)
    machine.confirm(number(machine))
    done = machine.outcome(signed)
    assert done["state"] == "went back"
    assert "sshd@admin.service" in done["reason"]
    assert machine.in_force() == good
    hosts.wait_for(lambda: machine.host.state("sshd@admin.service") == "active", "the ssh server")


def _traced(machine: Machine, stop: Callable[[int, str], bool]) -> int:
    """Run the program, and kill it at one of its steps; the number of steps until then."""
    machine.host("mkdir", "-p", "/run/traced")
    environment = ["env", "RUNTIME_DIRECTORY=/run/traced"]
    argv = machine.host.argv(*environment, "/bin/sh", "-x", "/usr/lib/vauban/configuration-apply")
    running = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    steps = 0
    assert running.stderr is not None
    for line in running.stderr:
        steps += line.startswith(b"+ ")
        if stop(steps, line.decode()):
            for pid in (*hosts.descendants(running.pid), running.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            break
    running.stderr.close()
    running.wait()
    return steps


def _waits(_step: int, line: str) -> bool:
    return line.startswith("+ sleep")


@pytest.fixture
def by_hand(machine: Machine) -> Iterator[Machine]:
    """Nothing looks at what is dropped."""
    machine.host("systemctl", "stop", "configuration-apply.path")
    machine.host("mkdir", "-p", "/run/configuration-core")
    machine.host("mount", "--bind", "/", "/run/configuration-core")
    yield machine
    machine.host("umount", "--lazy", "/run/configuration-core")
    machine.host("systemctl", "start", "configuration-apply.path")


def _drop(machine: Machine, port: int) -> tuple[dict[str, str], bytes]:
    files = {**ARCHIVED, **tree(22, port)}
    content = archive(entries(files))
    signed = machine.sign(statement(content, number(machine)))
    machine.drop(content, signed)
    return files, signed


def _recovered(machine: Machine, old: dict[str, str]) -> None:
    """What another process makes of it."""
    machine.host("rm", "-f", *(f"{INCOMING}/{name}" for name in ("configuration.p7m", "configuration.tar.gz")))
    machine.host("systemctl", "start", "configuration-apply.service")
    assert machine.in_force() == old
    assert machine.host("cat", "/etc/nftables.d/host.nft") == old["etc/nftables.d/host.nft"]
    assert not (machine.host.root / STATE[1:] / "trial").exists()


def test_killed_anywhere_it_leaves_a_whole_configuration(by_hand: Machine) -> None:
    """At every so many steps until it waits; another process then ends what it began."""
    machine = by_hand
    old = machine.in_force()
    _drop(machine, 9000)
    steps = _traced(machine, _waits)
    _recovered(machine, old)
    tried = 0
    for turn in range(KILLS):
        new, _signed = _drop(machine, 9001 + turn)
        where = 1 + turn * steps // KILLS
        _traced(machine, lambda step, _line, where=where: step == where)  # type: ignore[misc]
        assert machine.in_force() in (old, new), f"step {where} of {steps}"
        tried += (machine.host.root / STATE[1:] / "trial").exists()
        _recovered(machine, old)
    assert 0 < tried < KILLS


def test_killed_while_it_goes_back_it_leaves_a_whole_configuration(by_hand: Machine) -> None:
    machine = by_hand
    old = machine.in_force()
    _drop(machine, 9100)
    _traced(machine, _waits)
    steps = _traced(machine, lambda _step, _line: False)
    assert machine.result()["last"]["state"] == "went back"
    for turn in range(KILLS // 3):
        new, signed = _drop(machine, 9101 + turn)
        _traced(machine, _waits)
        where = 1 + turn * steps // (KILLS // 3)
        _traced(machine, lambda step, _line, where=where: step == where)  # type: ignore[misc]
        assert machine.in_force() in (old, new), f"step {where} of {steps}"
        _recovered(machine, old)
        assert machine.outcome(signed)["state"] == "went back"


def test_killed_while_it_confirms_it_leaves_a_whole_configuration(by_hand: Machine) -> None:
    """Whatever the machine then says is in force."""
    machine = by_hand
    for turn in range(KILLS // 3):
        old = machine.in_force()
        new, signed = _drop(machine, 9200 + turn)
        confirmed = [0]
        _traced(machine, partial(_confirming, machine, confirmed, 2 * turn))
        assert confirmed[0] > 0
        machine.host("systemctl", "start", "configuration-apply.service")
        told = machine.outcome(signed)["state"]
        assert machine.in_force() == {"applied": new, "went back": old}[told]
        assert not (machine.host.root / STATE[1:] / "trial").exists()


def test_killed_service_goes_back_by_itself(machine: Machine) -> None:
    before = machine.in_force()
    content = archive(entries({**ARCHIVED, **tree(22, 8010)}))
    signed = machine.sign(statement(content, number(machine)))
    machine.drop(content, signed)
    assert machine.outcome(signed, ended=False)["state"] == "trying"
    machine.host("systemctl", "kill", "--signal=KILL", "configuration-apply.service")
    done = machine.outcome(signed, within=SECONDS / 2)
    assert (done["state"], done["reason"]) == ("went back", "the trial was interrupted")
    assert machine.in_force() == before


def test_start_after_a_loss_of_power_puts_it_back(machine: Machine) -> None:
    """As far as it goes without one: the service of the start finds a trial, and asks for another start."""
    host, before = machine.host, machine.in_force()
    host("systemctl", "mask", "--runtime", "reboot.target")
    host.write("/run/systemd/system/configuration-apply.service.d/test.conf", "[Service]\nRestart=no\n")
    host("systemctl", "daemon-reload")
    try:
        content = archive(entries({**ARCHIVED, **tree(22, 8011)}))
        signed = machine.sign(statement(content, number(machine)))
        machine.drop(content, signed)
        assert machine.outcome(signed, ended=False)["state"] == "trying"
        host("systemctl", "kill", "--signal=KILL", "configuration-apply.service")
        hosts.wait_for(lambda: host.state("configuration-apply.service") == "failed", "its end")
        assert machine.in_force() != before
        done = host.ask("systemctl", "start", "configuration-restore.service")
        assert "reboot.target" in host.journal(), done.stderr
        assert machine.in_force() == before
        host("systemctl", "restart", "configuration-report.service")
        last = machine.result()["last"]
        assert (last["state"], last["reason"]) == ("went back", "the machine was started again before it was confirmed")
        host("systemctl", "reset-failed")
        host("systemctl", "start", "configuration-mount@switch.service")
    finally:
        host("rm", "-r", "/run/systemd/system/configuration-apply.service.d")
        host("systemctl", "unmask", "--runtime", "reboot.target")
        host("systemctl", "daemon-reload")


def _confirming(machine: Machine, began: list[int], further: int, step: int, line: str) -> bool:
    """Let it confirm, note at which step that begins, and stop so many steps further."""
    if line.startswith("+ sleep"):
        machine.confirm(int(machine.host("cat", f"{STATE}/trial")))
    if line.startswith("+ confirm"):
        began[0] = step
    return began[0] > 0 and step == began[0] + further
