# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._boot import key_directory
from ansible_collections.vauban.fleet.plugins.module_utils._boot.certificate import read_certificate
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import KeyRequest, ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._command import Completed
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox

NOW = dt.datetime(2026, 11, 22, 9, 30, 15, 123456, tzinfo=dt.UTC)
RECIPIENT = "age1" + "q" * 58


class ToolsOfPaper(Sandbox):
    """Answers for efitools and age-keygen in their output formats, without signatures."""

    def __init__(self) -> None:
        super().__init__(Path("/nowhere"), Path("/nowhere"))
        self.commands: list[list[str]] = []

    def run(self, command: Sequence[Any], *, binds: Sequence[Bind] = (), **_: Any) -> Completed:  # type: ignore[override]
        words = [str(word) for word in command]
        self.commands.append(words)
        host = {bind.dest: bind.source for bind in binds}
        printed = b""
        if words[0] == "cert-to-efi-sig-list":
            owner = uuid.UUID(words[words.index("-g") + 1])
            (host["/run/out"] / "list").write_bytes(
                bytes(28) + owner.bytes_le + read_certificate(host["/run/in.crt"]).der
            )
        elif words[0] == "sign-efi-sig-list":
            payload = b"" if words[-2] == "/dev/null" else host["/run/in.esl"].read_bytes()
            signer = read_certificate(host["/run/signer.crt"])
            (host["/run/out"] / "update").write_bytes(b"header" + signer.der + payload)
        elif words[:2] == ["age-keygen", "-o"]:
            (host["/run/out"] / "identity").write_text("AGE-SECRET-KEY-1\n")
        else:
            assert words[:2] == ["age-keygen", "-y"]
            printed = f"{RECIPIENT}\n".encode()
        return Completed(tuple(words), 0, printed, b"")


@pytest.fixture
def tools() -> ToolsOfPaper:
    return ToolsOfPaper()


@pytest.fixture
def request_development() -> KeyRequest:
    return KeyRequest(name="gateway")


@pytest.fixture(scope="session")
def _made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A complete directory as bytes: RSA keys are slow to make."""
    keys = ProductKeys(tmp_path_factory.mktemp("keys") / "gateway")
    key_directory.ensure(keys, KeyRequest(name="gateway"), ToolsOfPaper(), now=NOW)
    return {path.name: path.read_bytes() for path in keys.directory.iterdir()}


@pytest.fixture
def keys(_made: dict[str, bytes], tmp_path: Path) -> ProductKeys:
    """Development keys, complete."""
    directory = tmp_path / "gateway"
    directory.mkdir(mode=0o700)
    for name, data in _made.items():
        (directory / name).write_bytes(data)
        (directory / name).chmod(0o600)
    return ProductKeys(directory)
