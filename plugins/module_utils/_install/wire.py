# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""How the installer asks its provisioning server."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

JSON = "application/json"
_TIMEOUT = 30.0  # seconds, for one exchange
_LARGEST = 1024 * 1024  # bytes of an answer
_CHUNK = 1024 * 1024
_PAUSES = (1, 2, 5, 10, 20, 30)  # seconds between tries; the last one repeats
_BUSY = (429, 503)


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    body: bytes

    def data(self, where: str) -> dict[str, Any]:
        """The body, which has to be a JSON object.

        :raises FleetError: it is something else.
        """
        try:
            data = json.loads(self.body)
        except (ValueError, RecursionError) as exc:
            raise FleetError("the answer is not JSON", where=where) from exc
        if not isinstance(data, dict):
            raise FleetError("the answer is no JSON object", where=where)
        return data


class Wire:
    """Asks by TLS 1.3, and believes one authority only: neither DHCP nor DNS decides whom a machine talks to.

    :param url: ``https://NAME[:PORT]`` of the service.
    :param authority: certificate of that authority (PEM).
    :param patience: seconds for which a service that cannot be reached, or has no time, is asked again.
    """

    def __init__(
        self, url: str, authority: Path, *, patience: float = 600, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname or parts.path.strip("/"):
            raise FleetError("not the address of a service", where=url, remedy="https://NAME or https://NAME:PORT")
        self.url = url.rstrip("/")
        self.sleep = sleep
        self._host, self._port, self._patience = parts.hostname, parts.port or 443, patience
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            self._context.load_verify_locations(cafile=authority)
        except (OSError, ssl.SSLError) as exc:
            raise FleetError(f"no certificate of an authority: {exc}", where=str(authority)) from exc

    def identify(self, certificate: Path, key: Path) -> None:
        """Show a certificate, and prove to have its key, in all connections from now on.

        :param certificate: PEM, without those above it. It and the key are read now, and not again.
        :raises FleetError: they do not belong together.
        """
        try:
            self._context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as exc:
            raise FleetError(f"cannot be shown to the server: {exc}", where=str(certificate)) from exc

    def ask(
        self, method: str, path: str, body: bytes | None = None, *, kind: str = JSON, token: str | None = None
    ) -> Answer:
        """Ask until there is an answer other than that there is no time.

        :raises FleetError: there was none for as long as patience lasts, or another server answers.
        """
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        headers |= {"Content-Type": kind} if body is not None else {}
        return self._patiently(lambda: self._exchange(method, path, body, headers))

    def download(self, path: str, dest: Path, *, sha256: str, limit: int) -> None:
        """Fetch a file; what is there already of one that was cut off is not fetched again.

        :param limit: bytes. More are not taken.
        :raises FleetError: as for :meth:`ask`, or it is not the file that was meant.
        """
        dest.touch()
        answer = self._patiently(lambda: self._append(path, dest, limit))
        where = f"{self.url}{path}"
        if answer.status >= 300:
            raise FleetError(f"the server has no such file ({answer.status})", where=where)
        if (digest := _digest.of_file(dest)) != sha256:
            dest.unlink()
            raise FleetError(f"SHA-256 is {digest}, and should be {sha256}", where=where)

    def _patiently(self, exchange: Callable[[], tuple[Answer, float]]) -> Answer:
        end, tries = time.monotonic() + self._patience, 0
        while True:
            reason, pause = "", float(_PAUSES[min(tries, len(_PAUSES) - 1)])
            try:
                answer, wait = exchange()
            except ssl.SSLCertVerificationError as exc:
                raise FleetError(
                    f"this is not the server of the site: {exc.verify_message}",
                    where=self.url,
                    remedy="the certificate must be of the site's authority, and for this name; is the clock right?",
                ) from exc
            except (OSError, http.client.HTTPException) as exc:
                reason = str(exc) or type(exc).__name__
            else:
                if answer.status not in _BUSY:
                    return answer
                reason, pause = f"it has no time ({answer.status})", max(pause, wait)
            if time.monotonic() + pause > end:
                raise FleetError(f"no answer in {self._patience:.0f} seconds: {reason}", where=self.url)
            self.sleep(pause)
            tries += 1

    def _connection(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(self._host, self._port, timeout=_TIMEOUT, context=self._context)

    def _exchange(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> tuple[Answer, float]:
        with closing(self._connection()) as connection:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            content = response.read(_LARGEST + 1)
            if len(content) > _LARGEST:
                raise FleetError(f"the answer has more than {_LARGEST} bytes", where=f"{self.url}{path}")
            return Answer(response.status, content), _wait(response)

    def _append(self, path: str, dest: Path, limit: int) -> tuple[Answer, float]:
        have = dest.stat().st_size
        with closing(self._connection()) as connection:
            connection.request("GET", path, headers={"Range": f"bytes={have}-"} if have else {})
            response = connection.getresponse()
            if response.status == 416:  # it is there as a whole
                return Answer(200, b""), 0.0
            if response.status in (200, 206):
                with dest.open("ab" if response.status == 206 else "wb") as stream:
                    _copy(response, stream, limit, f"{self.url}{path}")
            return Answer(response.status, b""), _wait(response)


def _copy(response: http.client.HTTPResponse, stream: BinaryIO, limit: int, where: str) -> None:
    while chunk := response.read(_CHUNK):
        if stream.tell() + len(chunk) > limit:
            raise FleetError(f"the file has more than {limit} bytes", where=where)
        stream.write(chunk)
    if response.length:  # read(amount) says nothing of a body that is cut off
        raise http.client.IncompleteRead(b"", response.length)


def _wait(response: http.client.HTTPResponse) -> float:
    """What a server that has no time wishes, seconds."""
    wished = response.headers.get("Retry-After", "")
    return min(float(wished), 300.0) if wished.isdigit() else 0.0
