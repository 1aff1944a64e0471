# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""The drop area of a host, as account admin sees it over sftp (role admin_access). Each visit is a login of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

PARAMIKO_ERROR: ImportError | None = None
try:
    import paramiko
    from paramiko.kex_mlkem import KexMLKEM768X25519
except ImportError as exc:
    PARAMIKO_ERROR = exc

if TYPE_CHECKING:
    from paramiko import SFTPClient

_INCOMING, _RESULT = "/incoming", "/result"
_LARGEST = 16 * 1024 * 1024  # bytes of a result


class Unreachable(Exception):
    """Nobody answers, or it is not who it should be, or it does not let us in."""


@dataclass(frozen=True)
class Account:
    """How a host's drop area is reached.

    :param key: private key beside those of the ssh agent; a certificate ``KEY-cert.pub`` beside it counts, too.
    :param known: file of host keys (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT). A host that is not in it is not believed.
    :param seconds: for each step of a login, and for an answer.
    """

    address: str
    port: int
    user: str
    key: Path | None
    known: Path
    seconds: float = 20.0


class Drop:
    """A visit."""

    def __init__(self, client: SFTPClient) -> None:
        self._client = client

    def read(self, name: str) -> bytes | None:
        """A file of the results; None if it is not there.

        :raises Unreachable: the connection broke.
        """
        with _reported():
            try:
                with self._client.open(f"{_RESULT}/{name}", "rb") as stream:
                    return bytes(stream.read(_LARGEST))
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """Leave a file, which takes its name when it is whole.

        :raises Unreachable: the connection broke.
        """
        with _reported():
            temporary = f"{_INCOMING}/{name}.part"
            with self._client.open(temporary, "wb") as stream:
                stream.set_pipelined(True)
                stream.write(content)
            self._client.posix_rename(temporary, f"{_INCOMING}/{name}")


@contextmanager
def visit(account: Account) -> Iterator[Drop]:
    """Log in.

    :raises Unreachable: see there.
    """
    client = paramiko.SSHClient()
    try:
        with _reported():
            if account.known.is_file():
                client.load_host_keys(str(account.known))
            client.connect(
                account.address,
                account.port,
                account.user,
                key_filename=str(account.key) if account.key else None,
                timeout=account.seconds,
                banner_timeout=account.seconds,
                auth_timeout=account.seconds,
                channel_timeout=account.seconds,
            )
            sftp = client.open_sftp()
            sftp.get_channel().settimeout(account.seconds)
        yield Drop(sftp)
    finally:
        client.close()


def check_library() -> None:
    """Whether machines can be spoken to, which offer post-quantum key exchange only.

    :raises FleetError: something has to be installed first.
    """
    remedy = "install paramiko 5.1 or newer and cryptography 48 or newer for Ansible's Python"
    if PARAMIKO_ERROR is not None:
        raise FleetError(f"{PARAMIKO_ERROR}", where="paramiko", remedy=remedy)
    if not KexMLKEM768X25519.is_available():
        raise FleetError("it knows no post-quantum key exchange here", where="paramiko", remedy=remedy)


@contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, paramiko.SSHException) as exc:
        raise Unreachable(str(exc) or type(exc).__name__) from exc
