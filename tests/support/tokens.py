# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A PKCS#11 token of SoftHSM, with keys of a product."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils._boot.key_reference import KeyReference
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox

ROOT = Path(__file__).resolve().parents[2]


def uri(name: str) -> str:
    """How a key is named (RFC 7512)."""
    return f"pkcs11:token=fleet;object={name};type=private"


def in_token(name: str, token: Path) -> KeyReference:
    return KeyReference(uri(name), token)


def write_token(sandbox: Sandbox, keys: ProductKeys, names: Sequence[str], directory: Path) -> Path:
    """Make a token with copies of these private keys; its directory is as docs/keys.md wants it."""
    directory.mkdir(mode=0o700, parents=True)
    for name in ("openssl.cnf", "softhsm2.conf"):
        shutil.copy(ROOT / "files/pkcs11" / name, directory)
    (directory / "tokens").mkdir()
    pin = directory / "pin"
    pin.touch(mode=0o600)
    pin.write_text("471147\n")
    script = 'softhsm2-util --init-token --free --label fleet --pin "$(cat pin)" --so-pin 4711471147\n'
    for number, name in enumerate(names, start=1):
        script += f"softhsm2-util --import /run/keys/{name}.key --token fleet --label {name} --id 0{number} "
        script += '--pin "$(cat pin)"\n'
    sandbox.run(
        ["sh", "-euc", script],
        binds=[Bind(directory, "/run/token", writable=True), Bind(keys.directory, "/run/keys")],
        env={"SOFTHSM2_CONF": "/run/token/softhsm2.conf"},
        cwd="/run/token",
    )
    return directory


def move(sandbox: Sandbox, keys: ProductKeys, name: str, directory: Path) -> Path:
    """Make a token with one private key, which is in no file any more."""
    token = write_token(sandbox, keys, (name,), directory)
    keys.private(name).unlink()
    return token
