# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A volume that is there is opened with its recovery key: cryptsetup and systemd-cryptenroll of the SDK, on a file.

Sealing to a TPM needs one in a machine: tests/e2e/test_provisioning_replace.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from sdk import SDK

from ansible_collections.vauban.fleet.plugins.module_utils._command import Completed
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install import state
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox

pytestmark = pytest.mark.skipif(not SDK.exists(), reason=f"no SDK at {SDK}: run 'make build' or set FLEET_SDK")

FIRST = b"the key of the first installation"
Run = Callable[..., Completed]


@pytest.fixture
def run(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    def call(argv: Sequence[Any], *, stdin: bytes = b"", check: bool = True, **_options: Any) -> Completed:
        binds = [Bind(tmp_path, str(tmp_path), writable=True)]
        return sandbox.run([str(word) for word in argv], binds=binds, stdin=stdin, check=check)

    monkeypatch.setattr(state, "run", call)
    monkeypatch.setattr(state, "SECRETS", str(tmp_path))
    return call


@pytest.fixture
def volume(run: Run, tmp_path: Path) -> Path:
    """As an installation leaves it, but for the TPM."""
    path = tmp_path / "volume"
    with path.open("wb") as stream:
        stream.truncate(40 << 20)
    fast = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "-"]
    run(["cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", *fast, path], stdin=FIRST)
    return path


@pytest.fixture
def recovery(run: Run, volume: Path, tmp_path: Path) -> bytes:
    (tmp_path / "first").write_bytes(FIRST)
    words = ["systemd-cryptenroll", f"--unlock-key-file={tmp_path}/first"]
    key = run([*words, "--recovery-key", volume]).stdout.strip().encode()
    run(["systemd-cryptenroll", "--wipe-slot=0", volume])
    return key


def test_recovery_key_lets_the_installer_in_and_goes_with_it(volume: Path, recovery: bytes, tmp_path: Path) -> None:
    own = state.new_key()
    old = state.admit_key(volume, recovery, own)
    assert old == ["1"]
    assert state._opens(volume, own)
    assert state._opens(volume, recovery), "until another one is in escrow"
    again = state.new_key()
    assert state.admit_key(volume, recovery, again) == ["1"], "after a power cut"
    assert (state._opens(volume, own), state._opens(volume, again)) == (False, True)
    assert {path.name for path in tmp_path.iterdir()} == {"volume", "first"}, "no key lies about"


def test_recovery_key_of_another_disk_changes_nothing(volume: Path, recovery: bytes) -> None:
    before = volume.read_bytes()
    with pytest.raises(FleetError, match="the recovery key does not open the volume"):
        state.admit_key(volume, recovery[:-1] + b"x", state.new_key())
    assert volume.read_bytes() == before
