# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Power controllers of machines that do not exist: what DSP0266 says of one system, strict where controllers are."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

USER, PASSWORD = "operator", "password of the power controllers"
SYSTEM = "/redfish/v1/Systems/1"
RESET = f"{SYSTEM}/Actions/ComputerSystem.Reset"


@dataclass
class Controller:
    """One of them.

    :param start: called when its machine starts from the network.
    """

    start: Callable[[], None]
    url: str = ""
    power: str = "Off"
    boot: dict[str, str] = field(default_factory=dict)
    resets: list[str] = field(default_factory=list)

    def answer(self, method: str, path: str, headers: Any, body: Any) -> tuple[int, Any]:
        if headers.get("Authorization") != "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode():
            return 401, {}
        if (method, path) == ("GET", "/redfish/v1/Systems"):
            return 200, {"Members": [{"@odata.id": SYSTEM}]}
        if (method, path) == ("GET", SYSTEM):
            return 200, {"PowerState": self.power, "Actions": {"#ComputerSystem.Reset": {"target": RESET}}}
        if (method, path) == ("PATCH", SYSTEM):
            if headers.get("If-Match") != '"1"':
                return 412, {}
            self.boot = dict(body["Boot"])
            return 204, None
        if (method, path) == ("POST", RESET):
            if (body["ResetType"], self.power) not in (("On", "Off"), ("ForceRestart", "On")):
                return 400, {}
            self.power = "On"
            self.resets.append(body["ResetType"])
            if self.boot.pop("BootSourceOverrideEnabled", "") == "Once":
                self.start()
            return 204, None
        return 404, {}


def certify(directory: Path) -> tuple[Path, Path]:
    """Certificate, which is its own authority, and key of a controller on the loopback interface."""
    certificate, key = directory / "bmc.pem", directory / "bmc.key"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "2"]
    words += ["-subj", "/CN=controller", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*words, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    return certificate, key


@contextmanager
def serve(controller: Controller, directory: Path) -> Iterator[Path]:
    """Serve it by HTTPS; the authority of its certificate is yielded."""
    certificate, key = certify(directory)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length)) if length else None
            status, told = controller.answer(self.command, self.path, self.headers, body)
            content = b"" if told is None else json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("ETag", '"1"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PATCH = do_POST = handle_any

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    controller.url = f"https://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield certificate
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
