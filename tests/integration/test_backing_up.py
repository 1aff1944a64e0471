# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is backed up comes back as it was, and only with the recipient's identity: tar, zstd and age of the SDK."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from sdk import SDK

from ansible_collections.vauban.fleet.plugins.module_utils import _command
from ansible_collections.vauban.fleet.plugins.module_utils._command import Completed
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install import backing_up
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox

pytestmark = pytest.mark.skipif(not SDK.exists(), reason=f"no SDK at {SDK}: run 'make build' or set FLEET_SDK")

SECRET = b"what nobody but the recipient reads "
PIECE = 64 << 10
Run = Callable[..., Completed]


@pytest.fixture
def run(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Programs of the SDK, also in pipelines of the installer."""
    binds = [Bind(tmp_path, str(tmp_path), writable=True)]

    def call(argv: Sequence[Any], **options: Any) -> Completed:
        return sandbox.run([str(word) for word in argv], binds=binds, privileged=True, **options)

    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("tar", "zstd", "age"):
        words = shlex.join(sandbox.argv([name], binds=binds, privileged=True))
        (programs / name).write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        (programs / name).chmod(0o755)
    clean = _command.CLEAN_ENVIRONMENT
    monkeypatch.setattr(_command, "CLEAN_ENVIRONMENT", {**clean, "PATH": f"{programs}:{clean['PATH']}"})
    monkeypatch.setattr(backing_up, "run", call)
    return call


@pytest.fixture
def recipients(run: Run, tmp_path: Path) -> list[str]:
    """Of two, whose identities are ``0`` and ``1``."""
    made = []
    for name in ("0", "1"):
        text = run(["age-keygen"]).stdout
        (tmp_path / name).write_text(text)
        made.append(text.partition("# public key: ")[2].partition("\n")[0])
    return made


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files as a state volume has them, and some that it should not have."""
    root = tmp_path / "state"
    (root / "lib/deep").mkdir(parents=True)
    (root / "lib/secret").write_bytes(SECRET * 10_000)
    (root / "lib/noise").write_bytes(os.urandom(200_000))
    (root / "lib/secret").chmod(0o640)
    os.chown(root / "lib/secret", 457, 4242)
    (root / "lib/deep" / ("a name " + "x" * 200)).write_text("long")
    (root / "lib/\nline\udcff").write_text("odd")
    (root / "link").symlink_to("/etc/shadow")
    os.link(root / "lib/noise", root / "hard")
    os.setxattr(root / "lib/secret", "user.comment", b"kept")
    with (root / "sparse").open("wb") as stream:
        stream.seek(64 << 20)
        stream.write(b"end")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(root / "socket"))
    listener.close()
    return root


def _listed(root: Path) -> list[bytes]:
    """All that can be told of the files below, but for the socket, which nobody could use."""
    about, ended = ["-printf", "%P %y %m %U %G %n %l %T@ "], ["-printf", "\n"]
    words = ["find", ".", "!", "-name", "socket", *about]
    words += ["(", "-type", "f", "-exec", "sha256sum", "{}", ";", "-o", *ended, ")"]
    return sorted(subprocess.run(words, cwd=root, capture_output=True, check=True).stdout.splitlines())


class Sent:
    """In the place of the server: takes pieces in their order."""

    def __init__(self) -> None:
        self.content = b""
        self.sizes: list[int] = []

    def __call__(self, offset: int, piece: bytes) -> None:
        assert offset == len(self.content)
        self.content += piece
        self.sizes.append(len(piece))


def test_files_come_back_as_they_were_to_each_recipient(
    run: Run, tree: Path, recipients: list[str], tmp_path: Path
) -> None:
    sent = Sent()
    size, digest = backing_up.send(tree, recipients, sent, piece=PIECE, largest=1 << 30)
    assert (size, digest) == (len(sent.content), hashlib.sha256(sent.content).hexdigest())
    assert set(sent.sizes[:-1]) == {PIECE}
    assert SECRET not in sent.content
    assert size < 400_000, "it is compressed"
    (tmp_path / "backup.tar.zst.age").write_bytes(sent.content)
    for name in ("0", "1"):
        out = tmp_path / f"out{name}"
        out.mkdir()
        # The line that playbook backup prints.
        line = f"age -d -i {tmp_path / name} {tmp_path}/backup.tar.zst.age | zstd -d | tar -x -p --xattrs -C {out}"
        run(["bash", "-euc", f"set -o pipefail; {line}"])
        before, after = (_listed(where) for where in (tree, out))
        assert before == after
        assert os.getxattr(out / "lib/secret", "user.comment") == b"kept"
        assert (out / "sparse").stat().st_blocks * 512 < 1 << 20


def test_nobody_else_opens_it(run: Run, tree: Path, recipients: list[str], tmp_path: Path) -> None:
    sent = Sent()
    backing_up.send(tree, recipients[:1], sent, piece=PIECE, largest=1 << 30)
    words = ["age", "--decrypt", "--identity", tmp_path / "1"]
    refused = run(words, stdin=sent.content, check=False)
    assert (refused.returncode, refused.stdout_bytes) == (1, b"")


def test_no_more_is_sent_than_the_server_takes(run: Run, tree: Path, recipients: list[str]) -> None:
    sent = Sent()
    with pytest.raises(FleetError, match=f"more than {PIECE} bytes") as caught:
        backing_up.send(tree, recipients, sent, piece=PIECE, largest=PIECE)
    assert "backup_bytes" in str(caught.value.remedy)
    assert sent.sizes == [PIECE]


def test_what_goes_wrong_while_it_is_sent_is_what_is_said(run: Run, tree: Path, recipients: list[str]) -> None:
    def refuse(offset: int, _piece: bytes) -> None:
        if offset:
            raise FleetError("the server takes no more of the backup")

    with pytest.raises(FleetError, match="takes no more"):
        backing_up.send(tree, recipients, refuse, piece=PIECE, largest=1 << 30)


def test_directory_that_cannot_be_read_is_no_backup(run: Run, tmp_path: Path, recipients: list[str]) -> None:
    with pytest.raises(FleetError, match="not every file can be read") as caught:
        backing_up.send(tmp_path / "nowhere-secret", recipients, Sent(), piece=PIECE, largest=1 << 30)
    assert "nowhere-secret" not in str(caught.value), "names of files stay on the machine"


def test_recipient_that_is_none_is_said_by_age(run: Run, tree: Path) -> None:
    with pytest.raises(FleetError, match="age"):
        backing_up.send(tree, ["age1" + "q" * 58], Sent(), piece=PIECE, largest=1 << 30)


def test_journal_that_was_not_played_is_seen(run: Run, tmp_path: Path) -> None:
    device = tmp_path / "system"
    with device.open("wb") as stream:
        stream.truncate(20 << 20)
    run(["mkfs.ext4", "-q", device])
    assert backing_up._journal(device) is False
    run(["debugfs", "-w", "-R", "feature needs_recovery", device])
    assert backing_up._journal(device) is True


LOOK = """
import json, sys
from pathlib import Path
from ansible_collections.vauban.fleet.plugins.module_utils._install import backing_up
with backing_up.mounted(Path(sys.argv[1])) as (root, found):
    json.dump({**found, "names": sorted(each.name for each in root.iterdir())}, sys.stdout)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has loop devices")
def test_journal_of_a_file_system_that_was_not_unmounted_is_played(run: Run, tmp_path: Path) -> None:
    image, tree = tmp_path / "system", tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_text("content")
    with image.open("wb") as stream:
        stream.truncate(20 << 20)
    run(["mkfs.ext4", "-q", "-d", tree, image])
    run(["debugfs", "-w", "-R", "feature needs_recovery", image])
    device = subprocess.run(["losetup", "--find", "--show", image], capture_output=True, text=True, check=True)
    try:
        words = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", LOOK, device.stdout.strip()]
        paths = os.pathsep.join(path for path in sys.path if path)
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": paths}
        )
    finally:
        subprocess.run(["losetup", "--detach", device.stdout.strip()], check=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["names"], found["journal"]) == (["file", "lost+found"], True)
    assert 0 < found["used"] < 20 << 20
    assert backing_up._journal(image) is False
    run(["e2fsck", "-f", "-n", image])
