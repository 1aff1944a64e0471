# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a machine hears of Eclipse hawkBit, of which nothing is in Debian: its Direct Device Integration API, version 1.

Run as a program it answers with the files of a directory, and writes down what it is asked and told. The tests decide
what is in the files, as hawkBit would after what it was told.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PORT = 8080


class Handler(BaseHTTPRequestHandler):
    """One request."""

    def answer(self, body: str) -> None:
        directory = Path(sys.argv[1])
        said = {"method": self.command, "path": self.path, "authorization": self.headers["Authorization"], "body": body}
        with (directory / "asked.jsonl").open("a") as stream:
            stream.write(json.dumps(said) + "\n")
        file = directory / (self.path.rpartition("/controller/v1/")[2].replace("/", "_") or "none")
        known = self.command != "GET" or file.exists()
        content = file.read_bytes() if self.command == "GET" and known else b""
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self.answer("")

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers["Content-Length"])).decode())

    do_PUT = do_POST


class Hawkbit:
    """The directory of the program, from outside.

    :param controller: how hawkBit calls the machine.
    """

    def __init__(self, directory: Path, controller: str) -> None:
        self._directory, self._controller = directory, controller

    def wants(self, *, attributes: bool = False, **actions: int) -> None:
        """What the machine is to look at: ``deploymentBase`` and ``cancelAction``, with the number of an action."""
        base = f"https://hawkbit.invalid/default/controller/v1/{self._controller}"
        links = {kind: {"href": f"{base}/{kind}/{number}?c=-2127183556"} for kind, number in actions.items()}
        if attributes:
            links["configData"] = {"href": f"{base}/configData"}
        self.put("", {"config": {"polling": {"sleep": "00:05:00"}}, "_links": links})

    def deploys(self, action: int, version: str, *, product: str, **when: str) -> None:
        """An action, and what it is to bring.

        :param when: ``download`` and ``update``: ``skip``, ``attempt`` or, unless given, ``forced``.
        """
        artifact = {"filename": "evil", "size": 1, "_links": {"download": {"href": "https://hawkbit.invalid/evil"}}}
        chunk = {"part": "os", "name": product, "version": version, "artifacts": [artifact]}
        deployment = {"download": "forced", "update": "forced", **when, "chunks": [chunk]}
        self.put(f"_deploymentBase_{action}", {"id": str(action), "deployment": deployment})
        self.wants(deploymentBase=action)

    def put(self, path: str, content: Any) -> None:
        """Answer with this; text as it is, all else as JSON."""
        text = content if isinstance(content, str) else json.dumps(content)
        (self._directory / f"{self._controller}{path}").write_text(text)

    def asked(self) -> list[dict[str, Any]]:
        """All requests, the latest last."""
        file = self._directory / "asked.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def told(self) -> list[tuple[str, str, str, str]]:
        """Feedback: kind and number of the action, how it goes, its result, and why."""
        found = []
        for each in self.asked():
            if each["method"] == "POST":
                kind, number, last = each["path"].rsplit("/", 3)[1:]
                assert last == "feedback"
                status = json.loads(each["body"])["status"]
                (detail,) = status["details"]
                found.append((f"{kind}/{number}", status["execution"], status["result"]["finished"], detail))
        return found

    def forget(self) -> None:
        """As a hawkBit that has just been started, and wants nothing."""
        for file in self._directory.iterdir():
            file.unlink()
        self.wants()


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
