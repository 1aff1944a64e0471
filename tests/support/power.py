# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One power controller for many machines: the Redfish service of sushy-tools, which knows nothing of this project."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import bcrypt
from redfish import PASSWORD, USER, certify
from sushy_tools import error
from sushy_tools.emulator import main as emulator
from sushy_tools.emulator.resources.systems.base import AbstractSystemsDriver
from werkzeug.serving import make_server

_NETWORK = ("Pxe", "UefiHttp")
_OFF = ("ForceOff", "GracefulShutdown")
_RESTART = ("ForceRestart", "GracefulRestart")


class Powered(Protocol):
    """What hangs on the controller."""

    @property
    def on(self) -> bool:
        """Whether it has power."""

    def start(self, *, network: bool) -> None:
        """Switch it on; from the network, if this start is to be."""

    def stop(self) -> None:
        """Take its power."""


@dataclass(frozen=True)
class Controller:
    """A controller that answers.

    :param authority: of its certificate (PEM).
    """

    url: str
    authority: Path


class _Systems(AbstractSystemsDriver):
    """The machines, as sushy-tools asks for them. A boot source is for one start."""

    driver = "vauban.fleet"

    def __init__(self, machines: Mapping[str, Powered]) -> None:
        self._machines = machines
        self._sources: dict[str, str] = {}

    @property
    def systems(self) -> list[str]:
        return list(self._machines)

    def uuid(self, identity: str) -> str:
        if identity not in self._machines:
            raise error.NotFound(f"there is no system {identity}")
        return identity

    name = uuid

    def get_power_state(self, identity: str) -> str:
        return "On" if self._machines[self.uuid(identity)].on else "Off"

    def set_power_state(self, identity: str, state: str) -> None:
        machine = self._machines[self.uuid(identity)]
        if state in (*_OFF, *_RESTART):
            machine.stop()
        if state not in _OFF:
            machine.start(network=self._sources.pop(identity, "") in _NETWORK)

    def get_boot_device(self, identity: str) -> str:
        return self._sources.get(self.uuid(identity), "Hdd")

    def set_boot_device(self, identity: str, boot_source: str) -> None:
        self._sources[self.uuid(identity)] = boot_source

    def get_boot_mode(self, identity: str) -> str:
        self.uuid(identity)
        return "UEFI"

    def set_boot_mode(self, identity: str, boot_mode: str) -> None:
        if boot_mode != self.get_boot_mode(identity):
            raise error.NotSupportedError(f"{boot_mode} is not supported")


@contextmanager
def controller(machines: Mapping[str, Powered], directory: Path) -> Iterator[Controller]:
    """Serve them by HTTPS, to who knows ``redfish.USER`` and ``redfish.PASSWORD``. One at a time in a process.

    :param machines: by the identifier of the system.
    """
    accounts = directory / "accounts"
    accounts.write_text(f"{USER}:{bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt()).decode()}\n")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certify(directory))
    emulator.Application.systems = _Systems(machines)
    # Only what power needs: systems.
    emulator.app.config["SUSHY_EMULATOR_FEATURE_SET"] = "minimum"
    application = emulator.RedfishAuthMiddleware(emulator.app, str(accounts))
    server = make_server("127.0.0.1", 0, application, threaded=True, ssl_context=context)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Controller(f"https://127.0.0.1:{server.port}", directory / "bmc.pem")
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
