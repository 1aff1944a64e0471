# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page of the fleet in a browser, over a TCP port of the loopback as ssh(1) makes it for an admin.

The browser is Debian's package chromium-headless-shell or chromium, or the program that FLEET_BROWSER names.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import struct
import subprocess
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
from enrolment import INSTALLED, INSTALLER, MANIFEST, Machine, Tpm
from enrolment_apps import Server

from vauban_enrolment.app import admin_app

BROWSERS = ("chromium-headless-shell", "chromium")
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
# As fleet.css has them.
GREEN, YELLOW = (0xDF, 0xF2, 0xDF), (0xFD, 0xF0, 0xC8)


@pytest.fixture(scope="module")
def program() -> str:
    found = os.environ.get("FLEET_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: install package {BROWSERS[0]}, or set FLEET_BROWSER")
    return found


@dataclass
class Browser:
    """Looks at one page of the server."""

    program: str
    url: str
    directory: Path

    def look(self, *words: str) -> tuple[str, list[str]]:
        """The document as it is after all has been loaded, and what the browser's console has to say."""
        quiet = [
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={self.directory}/profile",
            "--enable-logging=stderr",
        ]
        command = [self.program, *quiet, *words, self.url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return done.stdout, re.findall(r"INFO:CONSOLE:\d+\] (.*)", done.stderr)

    def colours(self) -> Counter[tuple[int, ...]]:
        """How many pixels of the page have which colour."""
        picture = self.directory / "page.png"
        self.look(f"--screenshot={picture}", "--window-size=1200,800", "--hide-scrollbars")
        return Counter(_pixels(picture.read_bytes()))


def _pixels(data: bytes) -> Iterator[tuple[int, ...]]:
    """Of a picture as browsers write it: PNG with eight bits for each channel (RFC 2083)."""
    width, height, depth, kind, *_others = struct.unpack(">IIBBBBB", data[16:29])
    assert (depth, kind) in ((8, 2), (8, 6))
    size = {2: 3, 6: 4}[kind]
    place, packed = 8, b""
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        if data[place + 4 : place + 8] == b"IDAT":
            packed += data[place + 8 : place + 8 + length]
        place += 12 + length
    raw, above = zlib.decompress(packed), bytearray(width * size)
    for row in range(height):
        start = row * (width * size + 1)
        method, line = raw[start], bytearray(raw[start + 1 : start + 1 + width * size])
        for index in range(len(line)):
            left = line[index - size] if index >= size else 0
            corner = above[index - size] if index >= size else 0
            line[index] = (line[index] + _predicted(method, left, above[index], corner)) & 255
        yield from (tuple(line[index : index + 3]) for index in range(0, len(line), size))
        above = line


def _predicted(method: int, left: int, up: int, corner: int) -> int:
    if method == 4:
        return min((left, up, corner), key=lambda value: abs(left + up - corner - value))
    return (0, left, up, (left + up) // 2)[method]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with ExitStack() as stack:
        made = Server(tmp_path / "enrolment.sqlite", stack, [])
        made.start()
        content = {"manifest_sha256": MANIFEST, "pcrs": {"installer": INSTALLER, "installed": INSTALLED}}
        assert made.admin.put("/admin/v1/releases/server/1.0", json=content).status_code == 200
        yield made


@pytest.fixture
def browser(server: Server, program: str, tmp_path: Path) -> Iterator[Browser]:
    config = uvicorn.Config(admin_app(server.service), log_level="warning", lifespan="off")
    running = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not running.started:
            time.sleep(0.01)
        yield Browser(program, f"http://127.0.0.1:{listener.getsockname()[1]}/", tmp_path)
        running.should_exit = True
        thread.join(30)


def test_page_shows_the_fleet_in_colours(server: Server, browser: Browser) -> None:
    server.put_host()
    Machine(server).advance("installed")
    Machine(server, Tpm("stranger"), "S9", "52:54:00:00:00:09").apply()
    document, console = browser.look("--dump-dom")
    assert console == []
    text = " ".join(re.sub(r"<[^>]*>", " ", document).split())
    assert re.search(r"Hosts .* one server 1\.0 tpm installed written 50 % doing written", text)
    assert "quarantined" in text
    colours = browser.colours()
    assert colours[GREEN] > 500
    assert colours[YELLOW] > 500


def test_what_strangers_send_is_text(server: Server, browser: Browser) -> None:
    machine = Machine(server, Tpm("stranger"), HOSTILE[:60])
    application = machine.application()
    application["hardware"]["dmi"] |= {"sys_vendor": HOSTILE, "product_name": HOSTILE}
    assert machine.ask("POST", "/v1/enrolments", json=application).status_code == 201
    document, console = browser.look("--dump-dom")
    assert console == []
    assert "<title>Fleet</title>" in document
    assert "&lt;script&gt;document.title=" in document
    assert not re.search("<(script|img)", document)


def test_nothing_but_the_page_and_its_style_is_loaded_or_run(browser: Browser, server: Server) -> None:
    """The test above could not tell if the template's escaping were all there is."""
    page = server.admin.get("/")
    policy = page.headers["content-security-policy"]
    hostile = f'<meta http-equiv="Content-Security-Policy" content="{policy}"><title>Fleet</title>{HOSTILE}'
    (browser.directory / "hostile.html").write_text(hostile)
    browser.url = f"file://{browser.directory}/hostile.html"
    document, console = browser.look("--dump-dom")
    assert "<title>Fleet</title>" in document
    blocked = [line for line in console if "violates the following Content Security Policy directive" in line]
    assert len(blocked) >= 2
