# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whom the installer believes, and what it does when answers are late, wrong or none.

With the service itself: tests/integration/test_enrolment_by_tpm.py.
"""

from __future__ import annotations

import hashlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from certificates import P256, Authority, ec_key, pem

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install.enrolment import Enrolment
from ansible_collections.vauban.fleet.plugins.module_utils._install.wire import Wire

SITE = Authority.root("Site", ec_key(P256))
RELEASE = {"product": "server", "version": "1.0", "manifest_sha256": "ab" * 32}
PROVEN = (201, {"id": "1", "token": "t", "state": "proven"}, {})
Reply = tuple[int, Any, dict[str, str]]


@dataclass
class Stub:
    """A server that gives prepared answers, one after the other."""

    directory: Path
    replies: list[Reply] = field(default_factory=list)
    asked: list[tuple[str, str, bytes]] = field(default_factory=list)

    def start(self, identity: str = "localhost", version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> int:
        made = SITE.issue(identity, ec_key(P256))
        (self.directory / "server.pem").write_bytes(made.pem + pem(made.key))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.directory / "server.pem")
        context.maximum_version = version
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                stub.asked.append((self.command, self.path, body))
                status, content, headers = stub.replies.pop(0)
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                with suppress(OSError):
                    self.wfile.write(data)

            do_GET = do_POST = do_PUT = answer

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def get_request(self) -> tuple[ssl.SSLSocket, Any]:
                plain, address = super().get_request()
                return context.wrap_socket(plain, server_side=True), address

        self.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return int(self.server.server_address[1])


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[Stub]:
    made = Stub(tmp_path)
    yield made
    if hasattr(made, "server"):
        made.server.shutdown()
        made.server.server_close()


@pytest.fixture
def pauses() -> list[float]:
    """How long the machine has waited, in seconds."""
    return []


@pytest.fixture
def wire(stub: Stub, tmp_path: Path, pauses: list[float]) -> Callable[..., Wire]:
    def call(authority: Authority = SITE, patience: float = 600, **server: Any) -> Wire:
        (tmp_path / "authority.pem").write_bytes(authority.pem)
        url = f"https://localhost:{stub.start(**server)}"
        return Wire(url, tmp_path / "authority.pem", patience=patience, sleep=pauses.append)

    return call


def test_server_of_another_authority_is_told_nothing(stub: Stub, wire: Callable[..., Wire]) -> None:
    asking = wire(Authority.root("Site", ec_key(P256)))
    with pytest.raises(FleetError, match="this is not the server of the site"):
        Enrolment(asking, print).present(RELEASE, {}, None)
    assert stub.asked == []


def test_server_of_another_name_is_told_nothing(stub: Stub, wire: Callable[..., Wire]) -> None:
    with pytest.raises(FleetError, match="this is not the server of the site"):
        Enrolment(wire(identity="other.example"), print).present(RELEASE, {}, None)
    assert stub.asked == []


def test_server_with_tls_1_2_is_told_nothing(stub: Stub, wire: Callable[..., Wire]) -> None:
    with pytest.raises(FleetError, match=r"no answer in 3 seconds: .*alert"):
        Enrolment(wire(patience=3, version=ssl.TLSVersion.TLSv1_2), print).present(RELEASE, {}, None)
    assert stub.asked == []


@pytest.mark.parametrize("url", ["http://localhost", "https://", "localhost", "https://localhost/path"])
def test_address_that_is_none(tmp_path: Path, url: str) -> None:
    with pytest.raises(FleetError, match="not the address of a service"):
        Wire(url, tmp_path / "authority.pem")


def test_authority_that_is_none(tmp_path: Path) -> None:
    for content in (None, "nothing"):
        if content is not None:
            (tmp_path / "authority.pem").write_text(content)
        with pytest.raises(FleetError, match="no certificate of an authority") as caught:
            Wire("https://localhost", tmp_path / "authority.pem")
        assert caught.value.where == str(tmp_path / "authority.pem")


def test_certificate_of_another_key_is_not_shown(stub: Stub, wire: Callable[..., Wire], tmp_path: Path) -> None:
    asking, made = wire(), SITE.issue("one.example", ec_key(P256))
    (tmp_path / "own.pem").write_bytes(made.pem)
    (tmp_path / "own.key").write_bytes(pem(ec_key(P256)))
    with pytest.raises(FleetError, match="cannot be shown to the server") as caught:
        asking.identify(tmp_path / "own.pem", tmp_path / "own.key")
    assert caught.value.where == str(tmp_path / "own.pem")


def test_server_that_has_no_time_is_asked_again(stub: Stub, wire: Callable[..., Wire], pauses: list[float]) -> None:
    stub.replies = [(503, {}, {"Retry-After": "60"}), (429, {}, {}), (503, {}, {"Retry-After": "soon"}), PROVEN]
    Enrolment(wire(), print).present(RELEASE, {}, None)
    assert pauses == [60, 2, 5]


def test_server_that_is_not_there_is_waited_for_and_named(tmp_path: Path, pauses: list[float]) -> None:
    (tmp_path / "authority.pem").write_bytes(SITE.pem)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"https://localhost:{closed.getsockname()[1]}"
    with pytest.raises(FleetError, match=r"no answer in 0 seconds: .*refused") as caught:
        Wire(url, tmp_path / "authority.pem", patience=0.5, sleep=pauses.append).ask("GET", "/")
    assert caught.value.where == url


def test_machine_in_quarantine_waits_and_says_so(stub: Stub, wire: Callable[..., Wire], pauses: list[float]) -> None:
    said: list[str] = []
    waiting: dict[str, Any] = {"id": "1", "token": "t", "state": "quarantined"}
    stub.replies = [(201, waiting, {}), (200, waiting, {}), (200, {**waiting, "state": "proven"}, {})]
    Enrolment(wire(), said.append).present(RELEASE, {}, None)
    assert pauses == [10, 10]
    assert said == ["the site does not know this machine; somebody has to approve enrolment 1"]


@pytest.mark.parametrize("replies", [[(403, {}, {})], [(201, {"id": "1", "token": "t", "state": "refused"}, {})]])
def test_refusal_says_where_the_reason_is(stub: Stub, wire: Callable[..., Wire], replies: list[Reply]) -> None:
    stub.replies = replies
    with pytest.raises(FleetError, match="refuses this machine") as caught:
        Enrolment(wire(), print).present(RELEASE, {}, None)
    assert "audit log" in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ((200, {}, {}), "the receipt is not for"),
        ((200, {"receipt": "yes"}, {}), "the receipt is not for"),
        ((200, {"receipt": {"id": "1", "sha256": "00" * 32, "time": ""}}, {}), "the receipt is not for"),
        ((200, b"<html>", {}), "the answer is not JSON"),
        ((200, [], {}), "the answer is no JSON object"),
        ((200, b"[" * 100_000, {}), "the answer is not JSON"),
        ((200, b" " * (1024 * 1024 + 1), {}), "the answer has more than"),
        ((409, {}, {}), "was answered with 409"),
        ((500, {}, {}), "was answered with 500"),
        ((302, {}, {"Location": "https://localhost/"}), "was answered with 302"),
    ],
)
def test_recovery_key_without_a_good_receipt_is_an_error(
    stub: Stub, wire: Callable[..., Wire], reply: Reply, said: str
) -> None:
    stub.replies = [PROVEN, reply]
    enrolment = Enrolment(wire(), print)
    enrolment.present(RELEASE, {}, None)
    with pytest.raises(FleetError, match=said):
        enrolment.escrow({"recovery_key": "age", "tokens": [], "key_slots": []}, ["age1x"])


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("receipt", [None, {}, {"size": 9, "sha256": "ab"}, {"size": 10, "sha256": "cd"}])
def test_backup_without_a_good_receipt_is_an_error(stub: Stub, wire: Callable[..., Wire], receipt: Any) -> None:
    stub.replies = [(200, {"receipt": receipt}, {})]
    enrolment = Enrolment(wire(), lambda _line: None)
    with pytest.raises(FleetError, match="the receipt is not for the backup that was sent"):
        enrolment.sent(10, "ab")


def test_download_that_is_cut_off_goes_on(stub: Stub, wire: Callable[..., Wire], tmp_path: Path) -> None:
    stub.replies = [(200, b"first ", {"Content-Length": "12"}), (503, {}, {}), (206, b"second", {})]
    wire().download("/core", tmp_path / "core", sha256=sha256(b"first second"), limit=12)
    assert (tmp_path / "core").read_bytes() == b"first second"


def test_download_goes_on_where_the_server_cannot(stub: Stub, wire: Callable[..., Wire], tmp_path: Path) -> None:
    """One that knows no ranges sends all of it again."""
    stub.replies = [(200, b"first ", {"Content-Length": "12"}), (200, b"first second", {})]
    wire().download("/core", tmp_path / "core", sha256=sha256(b"first second"), limit=12)
    assert (tmp_path / "core").read_bytes() == b"first second"


def test_download_of_another_file_is_not_kept(stub: Stub, wire: Callable[..., Wire], tmp_path: Path) -> None:
    stub.replies = [(200, b"other", {})]
    with pytest.raises(FleetError, match=r"SHA-256 is .*, and should be"):
        wire().download("/core", tmp_path / "core", sha256=sha256(b"this"), limit=5)
    assert not (tmp_path / "core").exists()


def test_download_without_end_is_ended(stub: Stub, wire: Callable[..., Wire], tmp_path: Path) -> None:
    stub.replies = [(200, bytes(1000), {})]
    with pytest.raises(FleetError, match="more than 999 bytes"):
        wire().download("/core", tmp_path / "core", sha256=sha256(bytes(1000)), limit=999)
    assert (tmp_path / "core").stat().st_size <= 999


def test_download_of_what_is_not_there(stub: Stub, wire: Callable[..., Wire], tmp_path: Path) -> None:
    stub.replies = [(404, {}, {})]
    with pytest.raises(FleetError, match=r"no such file \(404\)"):
        wire().download("/core", tmp_path / "core", sha256=sha256(b""), limit=1)
