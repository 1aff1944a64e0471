# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A release forbids the one before it: firmware refuses that one, and the state volume opens before and after."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from machines import Boot, read_manifest
from shell import Shell
from updating import (
    FIRMWARE,
    LATE,
    Server,
    ask_for_updates,
    build,
    entries,
    on_segment,
    restart,
    serving,
    settle,
    start_once,
    started,
    update,
    version_of,
)

from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox

pytestmark = pytest.mark.extended
VERSION = "0.4.0"
ENDED = r"Finished .*update-variables\.service"


@pytest.fixture(scope="module")
def server(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(sandbox, tmp_path_factory.mktemp("server")) as made:
        yield made


def _forbidden(shell: Shell) -> str:
    """What dbx holds, in hexadecimal."""
    return shell("od -A n -v -t x1 /sys/firmware/efi/efivars/dbx-d719b2cb-3d3a-4596-a3bc-dad00e67656f | tr -d ' \\n'")


def _tokens(shell: Shell) -> int:
    """How many values of PCR 7 the TPM opens the state volume for."""
    header = json.loads(shell("cryptsetup luksDump --dump-json-metadata /dev/fleet/state"))
    return [token["type"] for token in header["tokens"].values()].count("systemd-tpm2")


def _said(shell: Shell) -> str:
    return shell("journalctl --boot --no-pager --output=cat --unit=update-variables")


def test_release_forbids_the_one_before_and_the_state_volume_opens_all_the_while(
    instrumented_release: Path, server: Server, keys: ProductKeys, boot: Boot, tmp_path: Path
) -> None:
    manifest = read_manifest(instrumented_release)
    old, digest = manifest["version"], manifest["uki"]["authenticode_sha256"]
    own_keys = shutil.copytree(keys.directory, tmp_path / "keys" / keys.directory.name)
    built = build(VERSION, product_keys_path=str(own_keys), product_secure_boot_dbx=[digest])
    new = server.offer(built, keys)
    spec = on_segment(instrumented_release, server, tmp_path / "machine")
    with boot(spec) as machine:
        shell = started(machine)
        shell("echo kept > /var/lib/marker")
        ask_for_updates(shell, server)
        assert f"installed: {new}" in update(shell)
        shell = restart(machine)
        settle(shell)
        assert version_of(shell) == new
        assert entries(shell) == {f"gateway_{old}.efi", f"gateway_{new}.efi"}
        assert digest not in _forbidden(shell), "a version on trial must not close the way back"
        assert _tokens(shell) == 1
        machine.serial.send("systemctl reboot\n")
        machine.serial.wait_for(ENDED, timeout=LATE)
        # Leaving the block cuts the power: right after firmware took the entry, and before the volume was opened.
    with boot(spec) as machine:
        shell = started(machine)
        assert "the state volume opens for the values of before no more" in _said(shell)
        assert shell("cat /var/lib/marker").strip() == "kept"
        assert _forbidden(shell).endswith(digest)
        assert _tokens(shell) == 1
        shell = restart(machine)
        assert shell("cat /var/lib/marker").strip() == "kept"
        assert "key slot" not in _said(shell), "nothing is left to do"
        start_once(shell, f"gateway_{old}.efi")
        machine.serial.send("systemctl reboot\n")
        machine.serial.wait_for(FIRMWARE, timeout=LATE)
        refused = rf"Error loading \\EFI\\Linux\\gateway_{re.escape(old)}\.efi: Access denied"
        machine.serial.wait_for(refused, timeout=LATE, fail_on=[])
