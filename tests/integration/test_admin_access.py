# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Role admin_access: both ssh servers, with the rights of their unit, and clients that try what is forbidden.

FLEET_SSH_AUDIT names the program ssh-audit (PyPI), if it is not in PATH.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import hosts
import pytest
from hosts import Host
from rendering import render
from sdk import SDK

ADDRESS = {"admin": "10.9.0.1", "audit": "10.9.1.1"}
EXEMPT = ("10.9.0.2", "10.9.1.2")
STRANGER = "10.9.0.3"  # an address of the client that is not
RIGHTS = "+setuid,+setgid,+sys_chroot,+net_bind_service"
KNOWN = "-oUserKnownHostsFile=/root/known"


@pytest.fixture(scope="module")
def pair(image: tuple[Path, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Host]]:
    """A machine with both servers and a journal, and a client with keys and certificates of all kinds."""
    directory = tmp_path_factory.mktemp("ssh")
    with ExitStack() as stack:
        machine, client = (
            stack.enter_context(hosts.host(name, SDK, image, directory / name)) for name in ("machine", "client")
        )
        hosts.connect(machine, client, ("10.9.0.1/24", "10.9.0.2/24"))
        machine("ip", "address", "add", "10.9.1.1/24", "dev", "wire")
        client("ip", "address", "add", "10.9.1.2/24", "dev", "wire")
        client("ip", "address", "add", f"{STRANGER}/24", "dev", "wire")
        hosts.start_journal(stack, machine, directory / "journal.log")
        machine("systemd-tmpfiles", "--create", "vauban-admin_access.conf")
        for command in host_key_commands(machine):
            machine(*command)
        make_keys(client)
        for path, content in render("admin_access", admin_access_instances=instances(client)).items():
            machine.write(f"/{path}", content)
        machine("install", "-d", "-m", "0755", "/run/sshd")
        # As the unit does: sftp in the drop area finds the journal's socket there.
        machine("mount", "--bind", "/run/systemd/journal/dev-log", "/var/lib/vauban/drop/dev/log")
        machine.write("/var/lib/vauban/drop/result/status", "applied 7\n")
        for name in ADDRESS:
            words = ["setpriv", "--no-new-privs", f"--bounding-set=-all,{RIGHTS}", "--inh-caps=-all"]
            words += ["/usr/sbin/sshd", "-D", "-f", f"/etc/vauban/admin_access/{name}.conf"]
            # The server makes who fails wait; most tests fail on purpose.
            words += ["-o", f"PerSourcePenaltyExemptList={','.join(EXEMPT)}"]
            stack.enter_context(machine.running(*words, log=directory / f"{name}.log"))
        scan = ["ssh-keyscan", "-t", "ed25519", *ADDRESS.values()]
        hosts.wait_for(lambda: client.ask(*scan).stdout.count("ssh-ed25519") == len(ADDRESS), "both servers")
        client.write("/root/known", client(*scan))
        yield machine, client


@pytest.fixture
def machine(pair: tuple[Host, Host]) -> Host:
    return pair[0]


@pytest.fixture
def client(pair: tuple[Host, Host]) -> Host:
    return pair[1]


def host_key_commands(host: Host) -> list[list[str]]:
    """What the unit that makes the host key runs."""
    text = host("cat", "/usr/lib/systemd/system/ssh-host-key.service")
    lines = [line.partition("=")[2] for line in text.splitlines() if line.startswith("ExecStart")]
    return [[word.strip('"') for word in line.replace("%l", "machine").split()] for line in lines]


def make_keys(client: Host) -> None:
    """Key pairs, and certificates by name of the file that ssh(1) finds beside the key."""
    client("install", "-d", "-m", "0700", "/root")
    keys = ("authority", "foreign", "plain", "stranger", "lost", "admin", "audit", "other", "expired", "forged", "both")
    for name in keys:
        client("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", f"/root/{name}")

    def certify(name: str, principals: str, *options: str, by: str = "authority") -> None:
        sign = ["ssh-keygen", "-q", "-s", f"/root/{by}", "-I", name, "-n", principals, *options]
        client(*sign, f"/root/{name}.pub")

    certify("admin", "ops-admin")
    certify("audit", "ops-audit")
    certify("other", "ops-nobody")
    certify("both", "admin,audit,root")
    certify("expired", "ops-admin,ops-audit", "-V", "20200101:20200201")
    certify("forged", "ops-admin,ops-audit", by="foreign")
    client("sh", "-euc", "cp /root/lost /root/revoked; cp /root/lost.pub /root/revoked.pub")
    certify("revoked", "ops-admin,ops-audit")


def instances(client: Host) -> list[dict[str, object]]:
    public = {name: client("cat", f"/root/{name}.pub").strip() for name in ("authority", "plain", "lost")}
    common = {"port": 22, "authorities": [public["authority"]], "tunnel": ""}
    return [
        {
            **common,
            "name": name,
            "addresses": [address],
            "public_keys": [public["plain"]] if name == "admin" else [],
            "principals": [f"ops-{name}"],
            "revoked": [public["lost"]],
        }
        for name, address in ADDRESS.items()
    ]


def ssh(
    client: Host, key: str, target: str, *command: str, options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Log in; ``target`` is USER or USER@SERVER."""
    user, _at, server = target.partition("@")
    words = ["ssh", "-F", "none", KNOWN, "-oBatchMode=yes", "-oIdentitiesOnly=yes", "-i", f"/root/{key}", *options]
    return client.ask(*words, "--", f"{user}@{ADDRESS[server or user]}", *command)


def sftp(client: Host, batch: str, *, key: str = "admin") -> subprocess.CompletedProcess[str]:
    words = ["sftp", "-F", "none", KNOWN, "-oBatchMode=yes", "-oIdentitiesOnly=yes", "-i", f"/root/{key}", "-b", "-"]
    return client.ask(*words, f"admin@{ADDRESS['admin']}", stdin=batch)


def journal(machine: Host, text: str) -> bool:
    machine("journalctl", "--sync")
    return machine.ask("journalctl", "--quiet", "--no-pager", f"--grep={text}").stdout != ""


@pytest.mark.parametrize("key", ["admin", "plain"])
def test_admin_drops_a_file_and_takes_a_result(machine: Host, client: Host, key: str) -> None:
    client.write("/root/bundle", "configuration\n")
    done = sftp(
        client,
        f"put /root/bundle {key}.part\nrename {key}.part {key}.bundle\nget /result/status /root/status\n",
        key=key,
    )
    assert done.returncode == 0, done.stderr
    assert machine("cat", f"/var/lib/vauban/drop/incoming/{key}.bundle") == "configuration\n"
    assert machine("stat", "-c", "%U %a", f"/var/lib/vauban/drop/incoming/{key}.bundle") == "admin 600\n"
    assert client("cat", "/root/status") == "applied 7\n"


def test_audit_reads_the_journal(machine: Host, client: Host) -> None:
    machine("logger", "--tag", "beacon", "the text to be found")
    machine("journalctl", "--sync")
    for command in (
        "journalctl --identifier=beacon --output=cat",
        "--identifier=beacon -b --lines=5 -q SYSLOG_FACILITY=1",
    ):
        done = ssh(client, "audit", "audit", command)
        assert "the text to be found" in done.stdout, done.stderr
    assert "the text to be found" not in ssh(client, "audit", "audit", "--identifier=nobody").stdout


@pytest.mark.parametrize(
    ("key", "target"),
    [
        ("stranger", "admin"),
        ("stranger", "audit"),
        ("other", "admin"),
        ("other", "audit"),
        ("expired", "admin"),
        ("expired", "audit"),
        ("forged", "admin"),
        ("forged", "audit"),
        ("revoked", "admin"),
        ("revoked", "audit"),
        ("both", "admin"),
        ("both", "audit"),
        ("admin", "audit"),
        ("audit", "admin"),
        ("plain", "audit"),
        ("audit", "audit@admin"),
        ("admin", "admin@audit"),
        ("both", "root@admin"),
        ("both", "root@audit"),
        ("plain", "root@admin"),
        ("plain", "sshd@admin"),
    ],
)
def test_login_is_refused(machine: Host, client: Host, key: str, target: str) -> None:
    done = ssh(client, key, target, "--lines=1")
    assert done.returncode == 255
    assert "Permission denied (publickey)" in done.stderr


def test_refused_logins_are_logged(machine: Host, client: Host) -> None:
    ssh(client, "audit", "admin")
    assert journal(machine, "Certificate does not contain an authorized principal")
    ssh(client, "both", "root@admin")
    assert journal(machine, "User root from .* not allowed because not listed in AllowUsers")


@pytest.mark.parametrize(
    "batch",
    [
        "put /root/bundle /result/status",
        "put /root/bundle /x",
        "put /root/bundle /../x",
        "put /root/bundle ../../../../var/lib/vauban/x",
        "get /etc/passwd /root/x",
        "get ../../../../../etc/passwd /root/x",
        "get /dev/log /root/x",
        "symlink /result/status /incoming/link",
        "ln /result/status /incoming/link",
        "chmod 777 /incoming",
        "chown 0 /incoming/file",
        "mkdir /incoming/directory",
        "rm /result/status",
        "rename /result/status /incoming/status",
    ],
)
def test_admin_stays_in_the_drop_area(machine: Host, client: Host, batch: str) -> None:
    client.write("/root/bundle", "x\n")
    list_files = ["sh", "-c", "cd /var/lib/vauban; ls -lnR --time-style=full-iso drop; cat drop/result/status"]
    sftp(client, "put /root/bundle /incoming/file")
    before = machine(*list_files)
    done = sftp(client, batch)
    assert done.returncode != 0, done.stdout
    assert re.search("Permission denied|not found|No such file|not support|not a regular file|Failure", done.stderr), (
        done.stderr
    )
    assert machine(*list_files) == before
    assert client.ask("test", "-e", "/root/x").returncode != 0


def test_what_admin_does_is_logged(machine: Host, client: Host) -> None:
    client.write("/root/bundle", "x\n")
    sftp(client, "put /root/bundle /incoming/logged")
    assert journal(machine, 'open "/incoming/logged"')
    sftp(client, "chmod 777 /incoming/logged")
    assert journal(machine, "sent status Permission denied")


@pytest.mark.parametrize(
    "command", ["id", "cat /etc/passwd", "journalctl", "/bin/sh", "scp -t /incoming", "scp -f /etc/passwd"]
)
def test_admin_runs_no_command(client: Host, command: str) -> None:
    done = ssh(client, "admin", "admin", command)
    assert (done.returncode, done.stdout) == (1, "This service allows sftp connections only.\n")


@pytest.mark.parametrize(
    "command",
    [
        "id",
        "cat /etc/shadow",
        "/bin/sh",
        "journalctl; id",
        "journalctl $(id)",
        "journalctl `id`",
        "journalctl --lines=1 | id",
        "journalctl --rotate",
        "journalctl --vacuum-size=1",
        "journalctl --vacuum-files=1",
        "journalctl --flush",
        "journalctl --relinquish-var",
        "journalctl --setup-keys",
        "journalctl --cursor-file=/tmp/x",
        "journalctl --cursor-f=/tmp/x",
        "journalctl --file=/etc/shadow",
        "journalctl --directory=/etc",
        "journalctl -D /etc",
        "journalctl --root=/",
        "journalctl --image=/x",
        "journalctl --update-catalog",
        "journalctl --namespace=x",
        "journalctl -M x",
        "journalctl /usr/bin/bash",
        "scp -f /etc/passwd",
        "scp -t /tmp",
        "journalctl\n--rotate",
        "*",
    ],
)
def test_audit_only_reads_and_filters(machine: Host, client: Host, command: str) -> None:
    done = ssh(client, "audit", "audit", command)
    assert (done.returncode, done.stdout) == (77, "")
    assert done.stderr.startswith("refused: ")
    assert journal(machine, f"refused: {re.escape(command.splitlines()[0])}")


def test_audit_has_no_sftp(client: Host) -> None:
    words = ["-F", "none", KNOWN, "-oBatchMode=yes", "-i", "/root/audit"]
    done = client.ask("sftp", *words, "-b", "-", f"audit@{ADDRESS['audit']}", stdin="ls")
    assert done.returncode != 0
    assert "subsystem request failed" in done.stderr
    done = client.ask("scp", *words, f"audit@{ADDRESS['audit']}:/etc/passwd", "/root/x")
    assert done.returncode != 0
    assert client.ask("test", "-e", "/root/x").returncode != 0


def test_environment_of_the_client_stays_outside(client: Host) -> None:
    done = ssh(client, "audit", "audit", "--version", options=("-oSetEnv=LD_PRELOAD=/x SYSTEMD_PAGER=id PATH=/tmp",))
    assert done.returncode == 0
    assert "ld.so" not in done.stderr


@pytest.mark.parametrize("name", ["admin", "audit"])
@pytest.mark.parametrize(
    "option", ["-W127.0.0.1:22", "-R2222:127.0.0.1:22", "-oTunnel=yes -w0:0", "-tt", "-R/tmp/s:/tmp/s"]
)
def test_nothing_is_forwarded(client: Host, name: str, option: str) -> None:
    done = ssh(client, name, name, options=("-oExitOnForwardFailure=yes", *option.split()))
    refused = (
        "administratively prohibited",
        "open failed",
        "forwarding failed",
        "PTY allocation request failed",
        "Tunnel",
    )
    assert any(text in done.stderr for text in refused), done.stderr
    assert "SSH-2.0" not in done.stdout


@pytest.mark.parametrize(
    "option",
    [
        "KexAlgorithms=curve25519-sha256",
        "KexAlgorithms=ecdh-sha2-nistp256",
        "KexAlgorithms=diffie-hellman-group14-sha256",
        "Ciphers=aes256-ctr",
        "Ciphers=aes128-cbc",
        "HostKeyAlgorithms=rsa-sha2-512",
    ],
)
def test_weaker_algorithm_is_not_offered(client: Host, option: str) -> None:
    done = ssh(client, "admin", "admin", options=(f"-o{option}",))
    assert done.returncode == 255
    assert "Unable to negotiate" in done.stderr


def test_password_is_never_asked_for(client: Host) -> None:
    words = ["ssh", "-F", "none", KNOWN, "-oBatchMode=yes", "-oPreferredAuthentications=none"]
    for name, address in ADDRESS.items():
        assert "Permission denied (publickey)" in client.ask(*words, f"{name}@{address}").stderr


def test_who_guesses_must_wait(client: Host) -> None:
    """From other addresses the account stays open meanwhile."""
    tries = [ssh(client, "stranger", "admin", options=("-b", STRANGER)).stderr for _number in range(12)]
    assert "Permission denied (publickey)" in tries[0]
    assert "Permission denied" not in tries[-1]
    assert sftp(client, "ls /").returncode == 0


def test_admin_cannot_read_the_journal(machine: Host) -> None:
    done = machine.ask("journalctl", "--quiet", "--no-pager", user="admin")
    assert done.stdout == ""
    assert machine.ask("id", "-nG", user="admin").stdout.split() == ["admin"]
    assert machine.ask("id", "-nG", user="audit").stdout.split() == ["audit", "systemd-journal"]


def test_host_key_is_the_machines_own_secret(machine: Host) -> None:
    assert machine("stat", "-c", "%U %a", "/var/lib/vauban/ssh/ssh_host_ed25519_key") == "root 600\n"
    assert machine.ask("cat", "/var/lib/vauban/ssh/ssh_host_ed25519_key", user="admin").returncode != 0


@pytest.mark.parametrize("name", ["admin", "audit"])
def test_ssh_audit_finds_nothing(client: Host, name: str) -> None:
    program = os.environ.get("FLEET_SSH_AUDIT") or shutil.which("ssh-audit")
    if program is None:
        pytest.skip("ssh-audit is not installed: pip install ssh-audit, or set FLEET_SSH_AUDIT")
    words = [
        "nsenter",
        "--target",
        str(client.pid),
        "--net",
        "--",
        program,
        "--json",
        "--skip-rate-test",
        ADDRESS[name],
    ]
    found = json.loads(subprocess.run(words, capture_output=True, text=True, check=False).stdout)
    notes = {
        (kind, algorithm["algorithm"]): algorithm["notes"]
        for kind in ("kex", "key", "enc", "mac")
        for algorithm in found[kind]
        if algorithm["notes"].get("fail") or algorithm["notes"].get("warn")
    }
    assert notes == {}
    assert len(found["kex"]) > 0
