# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Rendered configuration judged by the programs that will read it. Runs inside the SDK, in an empty network namespace.

Many files go to one run of a program where it takes many; when such a run fails, its halves get one of their own, and
so on, so that what the program says belongs to a file.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

SITE = "/run/site"  # where the trees appear
ROLES = "/run/roles"  # where the roles appear
_SCRATCH = Path("/tmp/inspection")
_BATCH = 200
_LINES = 6  # of what a program says about one file
_SECONDS = 60

Verdicts = dict[str, str]


def inspect(jobs: Mapping[str, Sequence[str]], users: Sequence[str], commands: Mapping[str, Sequence[str]]) -> Verdicts:
    """Judge files.

    :param jobs: paths below :data:`SITE` by kind of file; for kind ``units`` those of trees.
    :param users: names of users that files may name beside those of the SDK.
    :param commands: what judges each drop-in of kind ``exposure``.
    :returns: what is wrong, by path; paths that are in order are not in it.
    :raises FleetError: a program does not run at all.
    """
    _SCRATCH.mkdir(mode=0o700)
    _add_users(users)
    kinds: dict[str, Callable[[Sequence[str]], Verdicts]] = {**_KINDS, "exposure": partial(_exposure, commands)}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = [pool.submit(kinds[kind], paths) for kind, paths in jobs.items() if paths]
        return {path: said for future in futures for path, said in future.result().items()}


def _nftables(paths: Sequence[str]) -> Verdicts:
    """nft(8), option ``--check``: the kernel judges each ruleset as a whole, and changes nothing."""

    def check(some: Sequence[str]) -> str:
        batch = "".join(f'include "{SITE}/{path}"\n' for path in some)
        return _said(["nft", "--check", "--file", "-"], stdin=batch)

    # Each is loaded alone, but nft reads a batch as one: it merges neighbours in sets of one name.
    return _judge(_batches(paths), check, together=False)


def _strongswan(paths: Sequence[str]) -> Verdicts:
    """A charon loads the connections through vici; it holds no credentials and talks to nobody."""
    with _charon(Path(f"{SITE}/{paths[0].partition('/')[0]}/etc/swanctl/x509ca")) as environment:

        def check(some: Sequence[str]) -> str:
            # What connections take from the profiles is the same for all hosts, and stands beside the first.
            profiles = f"include {SITE}/{os.path.dirname(some[0])}/00-profiles.conf\n"
            # swanctl looks for certificates beside the file.
            batch = _SCRATCH / "swanctl/connections.conf"
            batch.write_text(profiles + "".join(f"include {SITE}/{path}\n" for path in some))
            return _said(["swanctl", "--load-conns", "--file", str(batch)], env=environment, quiet=False)

        return _judge(_apart(paths), check)


def _sshd(paths: Sequence[str]) -> Verdicts:
    """sshd(8), option ``-t``, with a host key of nobody: those of the machines are made on them."""
    key = _SCRATCH / "host_key"
    _said(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)])
    os.makedirs("/run/sshd", mode=0o755, exist_ok=True)

    def check(some: Sequence[str]) -> str:
        text = Path(f"{SITE}/{some[0]}").read_text("utf-8")
        copy = _SCRATCH / "sshd_config"
        copy.write_text(re.sub("(?m)^HostKey .*$", f"HostKey {key}", text))
        return _said(["/usr/sbin/sshd", "-t", "-f", str(copy)])

    return _judge(_each(paths), check)


def _chrony(paths: Sequence[str]) -> Verdicts:
    """chronyd(8), option ``-p``: prints what it understood."""
    return _judge(_each(paths), lambda some: _said(["chronyd", "-p", "-f", f"{SITE}/{some[0]}"], ignore_stdout=True))


def _rsyslog(paths: Sequence[str]) -> Verdicts:
    """rsyslogd(8), option ``-N1``."""
    for name in ("rsyslog", "log-collector"):
        os.makedirs(f"/tmp/var/{name}", exist_ok=True)

    def check(some: Sequence[str]) -> str:
        text = (
            Path(f"{SITE}/{some[0]}").read_text("utf-8").replace('workDirectory="/var/lib/', 'workDirectory="/tmp/var/')
        )
        copy = _SCRATCH / "rsyslog.conf"
        copy.write_text(text)
        done = _run(["rsyslogd", "-N1", "-f", str(copy)])
        problems = [line for line in done.stderr.splitlines() if not _RSYSLOG_HARMLESS.search(line)]
        return "\n".join(problems) or ("" if done.returncode == 0 else done.stderr)

    return _judge(_each(paths), check)


_RSYSLOG_HARMLESS = re.compile("version .*config validation run|End of config validation run|^$")


def _keepalived(paths: Sequence[str]) -> Verdicts:
    """keepalived(8), option ``--config-test``: whatever it prints is a fault, whether it ends well or not."""
    command = ["/usr/sbin/keepalived", "--config-test", "--vrrp", "--use-file"]
    return _judge(_each(paths), lambda some: _said([*command, f"{SITE}/{some[0]}"]))


def _networkd(paths: Sequence[str]) -> Verdicts:
    """systemd-networkd says what it does not understand when it reads its files; it has no other check."""
    place = Path("/run/systemd/network")
    place.mkdir(parents=True, exist_ok=True)
    names = {}
    for number, path in enumerate(paths):
        name = f"{number:06}-{path.rpartition('/')[2]}"
        names[name] = path
        shutil.copy(f"{SITE}/{path}", place / name)
    said: Verdicts = {}
    for line in _networkd_log().splitlines():
        found = re.match(rf"{place}/([^:]+): ?(.*)|{place}/([^:]+):([0-9]+: .*)", line)
        if found:
            path = names.get(found[1] or found[3], "")
            said[path] = f"{said[path]}\n{found[2] or found[4]}" if path in said else str(found[2] or found[4])
    return said


def _networkd_log() -> str:
    """What systemd-networkd prints until it has read all of its files."""
    command = ["/usr/lib/systemd/systemd-networkd"]
    environment = {**os.environ, "SYSTEMD_LOG_TARGET": "console", "SYSTEMD_LOG_LEVEL": "info"}
    log = _SCRATCH / "networkd.log"
    lines: list[str] = []
    with log.open("w") as stream:
        process = subprocess.Popen(command, env=environment, stderr=stream, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + _SECONDS
    while not any("Enumeration completed" in line or "lo: Link UP" in line for line in lines):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise FleetError(f"systemd-networkd does not run: {''.join(lines[-3:])}", where="the SDK")
        time.sleep(0.05)
        lines = log.read_text("utf-8").splitlines(keepends=True)
    process.terminate()
    process.wait(_SECONDS)
    return "".join(lines)


def _units(trees: Sequence[str]) -> Verdicts:
    """systemd-analyze(1) ``verify``: every line it prints is a fault, since it ends with 0 on an unknown setting."""

    def check(some: Sequence[str]) -> str:
        own = f"{SITE}/{some[0]}/etc/systemd/system"
        units = sorted(
            name.removesuffix(".d")
            for name in os.listdir(own)
            if not name.removesuffix(".d").endswith((".target", "@.service", "@.socket"))
        )
        command = ["systemd-analyze", "verify", "--man=no", "--generators=no", "--recursive-errors=one", *units]
        done = _run(command, env=_looking_for_units(own, units, "verified"))
        return done.stderr.strip() or ("" if done.returncode == 0 else f"ended with {done.returncode}")

    return _judge(_each(trees), check)


def _exposure(commands: Mapping[str, Sequence[str]], paths: Sequence[str]) -> Verdicts:
    """systemd-analyze(1) ``security``: fails on a unit that is more exposed than is accepted."""

    def check(some: Sequence[str]) -> str:
        command = commands[some[0]]
        own = f"{SITE}/{os.path.dirname(os.path.dirname(some[0]))}"
        done = _run([*command[:-1], "--no-pager", command[-1]], env=_looking_for_units(own, command[-1:], "exposed"))
        return "" if done.returncode == 0 else done.stderr.strip() or done.stdout.strip().rpartition("\n")[2]

    return _judge(_each(paths), check)


def _looking_for_units(own: str, units: Iterable[str], scratch: str) -> dict[str, str]:
    """An environment in which systemd-analyze(1) finds the units of a tree.

    Services of a site's own products are not here: what is said about them is judged on a bare one.
    """
    ours = [str(path) for path in sorted(Path(ROLES).glob("*/files/root/usr/lib/systemd/system"))]
    bare = _SCRATCH / scratch
    bare.mkdir(exist_ok=True)
    places = [own, *ours, "/usr/lib/systemd/system"]
    for name in units:
        template = re.sub("@[^.]*", "@", name)
        if name.endswith(".service") and not any(
            os.path.exists(f"{place}/{each}") for place in places for each in (name, template)
        ):
            (bare / name).write_text("[Service]\nExecStart=/bin/true\n")
    return {**os.environ, "SYSTEMD_UNIT_PATH": ":".join([*places, str(bare)])}


_KINDS: dict[str, Callable[[Sequence[str]], Verdicts]] = {
    "nftables": _nftables,
    "strongswan": _strongswan,
    "sshd": _sshd,
    "chrony": _chrony,
    "rsyslog": _rsyslog,
    "networkd": _networkd,
    "keepalived": _keepalived,
    "units": _units,
}


def _judge(
    batches: Iterable[Sequence[str]], check: Callable[[Sequence[str]], str], *, together: bool = True
) -> Verdicts:
    """Check batches, and halves of one that fails until the files are found.

    :param together: whether what only fails together is a fault of all, rather than of none.
    """
    said: Verdicts = {}
    for some in batches:
        problem = check(some)
        if problem:
            said |= _faults(some, problem, check) or dict.fromkeys(some if together else (), problem)
    return {path: "\n".join(text.strip().splitlines()[:_LINES]) for path, text in said.items()}


def _faults(some: Sequence[str], problem: str, check: Callable[[Sequence[str]], str]) -> Verdicts:
    """The files of a batch that have a problem, each with its own."""
    if len(some) == 1:
        return {some[0]: problem}
    found: Verdicts = {}
    for half in (some[: len(some) // 2], some[len(some) // 2 :]):
        if said := check(half):
            found |= _faults(half, said, check)
    return found


def _batches(paths: Sequence[str]) -> Iterator[Sequence[str]]:
    for first in range(0, len(paths), _BATCH):
        yield paths[first : first + _BATCH]


def _each(paths: Sequence[str]) -> Iterator[Sequence[str]]:
    for path in paths:
        yield [path]


def _apart(paths: Sequence[str]) -> Iterator[Sequence[str]]:
    """Batches of files with connections that have different names: those of one name would be read as one."""
    named = {path: set(_CONNECTION.findall(Path(f"{SITE}/{path}").read_text("utf-8"))) for path in paths}
    batch: list[str] = []
    names: set[str] = set()
    for path in sorted(paths, key=lambda path: len(named[path])):
        if batch and (len(batch) == _BATCH or names & named[path]):
            yield batch
            batch, names = [], set()
        batch.append(path)
        names |= named[path]
    if batch:
        yield batch


_CONNECTION = re.compile(r"(?m)^  (\S+) : profiles\.")


def _said(
    command: Sequence[str],
    *,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    quiet: bool = True,
    ignore_stdout: bool = False,
) -> str:
    """What a program complains about; nothing if it ends well.

    :param quiet: a program that prints something has found something, whatever its exit status.
    """
    done = _run(command, stdin=stdin, env=env)
    output = done.stderr if ignore_stdout else done.stderr + done.stdout
    if done.returncode != 0:
        return output.strip() or f"{command[0]} ended with {done.returncode}"
    return output.strip() if quiet else ""


def _run(
    command: Sequence[str], *, stdin: str | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, input=stdin, env=env, capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise FleetError(f"{command[0]} does not run: {exc}", where="the SDK", remedy="build the SDK again") from exc


@contextmanager
def _charon(authorities: Path) -> Iterator[dict[str, str]]:
    """A charon of our own, with the plugins that machines load, and the authorities of the site or one of nobody."""
    socket = _SCRATCH / "charon.vici"
    vici = f"plugins {{\n vici {{\n socket = unix://{socket}\n }}\n }}"
    settings = _SCRATCH / "strongswan.conf"
    settings.write_text(
        f"include {ROLES}/strongswan/files/root/etc/strongswan.conf\n"
        f"charon-systemd {{\n {vici}\n syslog {{\n daemon {{\n default = -1\n }}\n }}\n }}\n"
        f"swanctl {{\n {vici}\n}}\n"
    )
    swanctl = _SCRATCH / "swanctl"
    swanctl.mkdir()
    if authorities.is_dir():
        (swanctl / "x509ca").symlink_to(authorities)
    else:
        _authority_of_nobody(swanctl / "x509ca/site.pem")
    environment = {**os.environ, "STRONGSWAN_CONF": str(settings)}
    process = subprocess.Popen(["charon-systemd"], env=environment, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + _SECONDS
        while not socket.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                said = process.stderr.read() if process.poll() is not None and process.stderr else ""
                raise FleetError(f"charon-systemd does not start: {said.strip()}", where="the SDK")
            time.sleep(0.05)
        yield environment
    finally:
        process.terminate()
        process.wait(_SECONDS)


def _authority_of_nobody(path: Path) -> None:
    """A certificate in the place of the authority that a site does not have yet."""
    path.parent.mkdir()
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "/dev/null"]
    done = _run(["openssl", "req", "-x509", "-days", "1", "-subj", "/CN=nobody", *key, "-out", str(path)])
    if done.returncode != 0:
        raise FleetError(f"openssl makes no certificate: {done.stderr.strip()}", where="the SDK")


def _add_users(users: Sequence[str]) -> None:
    """Users of the machines, which the SDK need not have. The files that name them are the SDK's, shown read-only."""
    known = Path("/etc/passwd").read_text("utf-8")
    names = {line.split(":")[0] for line in known.splitlines()}
    added = "".join(
        f"{name}:x:{number}:65534::/:/usr/sbin/nologin\n"
        for number, name in enumerate(sorted(set(users) - names), 60_000)
    )
    copy = _SCRATCH / "passwd"
    copy.write_text(known + added)
    _said(["mount", "--bind", str(copy), "/etc/passwd"])
