# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Role logging: the journal of one host goes to the collector of another, over outages, and messages are counted."""

from __future__ import annotations

import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import hosts
import pytest
from hosts import Host
from rendering import render
from sdk import SDK

COLLECTOR, SENDER = "10.9.0.1", "10.9.0.2"
FILE = f"/var/log/collected/{SENDER}.log"
ADDRESSES = [COLLECTOR]


class Rsyslog:
    """rsyslogd as its unit runs it: as a user without any right, in directories that systemd would make."""

    def __init__(self, host: Host, config: str, directories: tuple[str, ...], log: Path) -> None:
        self.host, self.config, self.log = host, config, log
        self.process: subprocess.Popen[bytes] | None = None
        for directory in directories:
            host("install", "-d", "-o", "_rsyslog", "-g", "_rsyslog", "-m", "0750", directory)

    def start(self, stack: ExitStack) -> None:
        rights = ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
        who = ["setpriv", "--reuid=_rsyslog", "--regid=_rsyslog", "--init-groups", *rights]
        words = [*who, "rsyslogd", "-n", "-iNONE", "-f", f"/etc/vauban/logging/{self.config}.conf"]
        self.process = stack.enter_context(self.host.running(*words, log=self.log))

    def end(self, number: signal.Signals) -> None:
        """Give it this signal, and wait for its end."""
        assert self.process is not None
        hosts.signal_inside(self.process.pid, number)
        self.process.wait(hosts.WITHIN)


class Pair:
    """A host that forwards and one that collects."""

    def __init__(self, stack: ExitStack, image: tuple[Path, ...], directory: Path, **variables: object) -> None:
        self.stack = stack
        self.collector_host, self.sender_host = (
            stack.enter_context(hosts.host(name, SDK, image, directory / name)) for name in ("collector", "sender")
        )
        hosts.connect(self.collector_host, self.sender_host, (f"{COLLECTOR}/24", f"{SENDER}/24"))
        hosts.start_journal(stack, self.sender_host, directory / "journal.log")
        to = [{"address": COLLECTOR, "port": 2514}]
        for path, content in render("logging", logging_collectors=to).items():
            self.sender_host.write(f"/{path}", content)
        collect = render("logging", logging_collect=True, logging_collect_addresses=ADDRESSES, **variables)
        for path, content in collect.items():
            self.collector_host.write(f"/{path}", content)
        places = ("/var/lib/log-collector", "/var/log/collected")
        self.collector = Rsyslog(self.collector_host, "collect", places, directory / "collect.log")
        self.sender = Rsyslog(self.sender_host, "forward", ("/var/lib/rsyslog",), directory / "forward.log")
        self.said = 0

    def say(self, count: int, *, text: str = "") -> None:
        """Write numbered messages to the journal."""
        numbers = range(self.said, self.said + count)
        self.said += count
        self.sender_host(
            "logger", "--tag", "counter", stdin="".join(f"number={number}; {text}\n" for number in numbers)
        )

    def collected(self) -> Counter[int]:
        """The numbers in the collector's files, and how often each is there."""
        text = self.collector_host("sh", "-c", "cat /var/log/collected/*.log* 2>/dev/null || true")
        return Counter(int(number) for number in re.findall(r"counter\[\d+\]:? number=(\d+);", text))

    def wait(self) -> Counter[int]:
        """Wait until everything said has arrived."""
        hosts.wait_for(lambda: len(self.collected()) >= self.said, f"{self.said} messages", within=60)
        return self.collected()


@pytest.fixture
def pair(image: tuple[Path, ...], tmp_path: Path) -> Iterator[Pair]:
    with ExitStack() as stack:
        yield Pair(stack, image, tmp_path)


def test_messages_arrive_in_a_file_of_the_host(pair: Pair) -> None:
    pair.collector.start(pair.stack)
    pair.sender.start(pair.stack)
    pair.say(200)
    assert pair.wait() == Counter(range(200))
    assert pair.collector_host("ls", "/var/log/collected") == f"{SENDER}.log\n"
    assert pair.collector_host("stat", "-c", "%U %a", FILE) == "_rsyslog 640\n"


def test_nothing_is_lost_when_the_collector_is_killed(pair: Pair) -> None:
    """What was in flight may come twice: only what is acknowledged leaves the queue."""
    pair.collector.start(pair.stack)
    pair.sender.start(pair.stack)
    pair.say(500)
    hosts.wait_for(lambda: len(pair.collected()) > 100, "the first messages")
    pair.collector.end(signal.SIGKILL)
    pair.say(1000)
    pair.collector.start(pair.stack)
    pair.say(500)
    arrived = pair.wait()
    assert set(arrived) == set(range(2000))
    assert max(arrived.values()) <= 2


def test_nothing_is_lost_when_both_are_away(pair: Pair) -> None:
    """The sender starts without a collector, is stopped with a full queue, and what is said meanwhile waits, too."""
    pair.sender.start(pair.stack)
    pair.say(7000)
    queued = "/var/lib/rsyslog/to_1.00000001"
    hosts.wait_for(lambda: pair.sender_host.ask("test", "-s", queued).returncode == 0, "the queue on disk")
    pair.sender.end(signal.SIGTERM)
    pair.say(300)
    pair.sender.start(pair.stack)
    pair.collector.start(pair.stack)
    assert set(pair.wait()) == set(range(7300))


def test_nothing_is_lost_when_the_sender_is_killed(pair: Pair) -> None:
    pair.collector.start(pair.stack)
    pair.sender.start(pair.stack)
    pair.say(300)
    pair.wait()
    pair.sender.end(signal.SIGKILL)
    pair.say(300)
    pair.sender.start(pair.stack)
    assert set(pair.wait()) == set(range(600))


def test_file_of_a_host_is_bounded(image: tuple[Path, ...], tmp_path: Path) -> None:
    with ExitStack() as stack:
        pair = Pair(stack, image, tmp_path, logging_collect_file_size=1)
        pair.collector.start(stack)
        pair.sender.start(stack)
        for _part in range(4):
            pair.say(400, text="x" * 2000)
            hosts.wait_for(lambda: pair.said - 1 in pair.collected(), "the last message", within=60)
        sizes = pair.collector_host("sh", "-c", "stat -c '%n %s' /var/log/collected/*").splitlines()
        assert [line.split()[0] for line in sizes] == [FILE, f"{FILE}.1"]
        assert all(int(line.split()[1]) < 1.5 * 2**20 for line in sizes)


def test_journal_is_bounded_and_sealed(pair: Pair) -> None:
    """journald itself says what it reads: keys for sealing are made, and every entry is then verified with them."""
    host = pair.sender_host
    config = host("systemd-analyze", "cat-config", "systemd/journald.conf")
    effective = dict(line.split("=", 1) for line in config.splitlines() if "=" in line and not line.startswith("#"))
    assert (effective["Storage"], effective["Seal"], effective["SystemMaxUse"]) == ("persistent", "yes", "200M")
