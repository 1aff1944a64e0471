# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Both ends of an enrolment by TPM, inside the SDK: machines with software TPMs, and the server that checks them.

Started by :mod:`endorsement`; reads calls from standard input and writes answers to standard output (pickle).
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path, PosixPath
from typing import Any

from cryptography import x509

from ansible_collections.vauban.fleet.plugins.module_utils._command import run
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._tpm.machine import AK, Tpm
from vauban_enrolment import verification

TPMS = Path("/run/tpms")
START_TIMEOUT = 10.0


class Machine:
    """A machine with the software TPM whose state is in :data:`TPMS` under its name."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.directory = Path("/tmp", name)
        self.directory.mkdir(mode=0o700)
        self._tcti = f"swtpm:path={self.directory}/socket"
        self.tpm = Tpm(self.directory, tcti=self._tcti)
        self.boot({})

    def boot(self, words: Mapping[int, str]) -> None:
        """Start the TPM, and extend registers with the digests of words."""
        argv = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={TPMS / self._name}"]
        argv += ["--server", f"type=unixio,path={self.directory}/socket"]
        argv += ["--ctrl", f"type=unixio,path={self.directory}/socket.ctrl"]
        argv += ["--flags", "not-need-init,startup-clear", "--pid", f"file={self.directory}/pid"]
        (self.directory / "pid").unlink(missing_ok=True)
        self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=sys.stderr, stderr=subprocess.DEVNULL)
        end = time.monotonic() + START_TIMEOUT
        while not (self.directory / "pid").exists():
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("swtpm did not start")
            time.sleep(0.01)
        for number, word in words.items():
            self.tool("tpm2_pcrevent", str(number), stdin=word.encode())

    def off(self) -> None:
        """Switch the machine off."""
        run(["tpm2_shutdown", "-c"], env={"TPM2TOOLS_TCTI": self._tcti})
        self._process.terminate()
        self._process.wait(10)

    def tool(self, *words: str, stdin: bytes | None = None) -> bytes:
        """Run one of tpm2-tools against this TPM."""
        environment = {"TPM2TOOLS_TCTI": self._tcti}
        try:
            return run(words, env=environment, stdin=stdin, cwd=self.directory).stdout_bytes
        finally:
            run(["tpm2_flushcontext", "-t"], env=environment)

    def feed(self, data: bytes, *words: str) -> bytes:
        """As :meth:`tool`, with these bytes at standard input."""
        return self.tool(*words, stdin=data)

    def make_key(self, attributes: str, algorithm: str = "ecc256:ecdsa-sha256:null", hierarchy: str = "e") -> AK:
        """A primary key of any kind."""
        path = self.directory / "key"
        words = ["-C", hierarchy, "-g", "sha256", "-G", algorithm, "-a", attributes, "-c", f"{path}.context"]
        self.tool("tpm2_createprimary", *words)
        self.tool("tpm2_readpublic", "-c", f"{path}.context", "-o", f"{path}.public")
        return AK(Path(f"{path}.public").read_bytes(), Path(f"{path}.context"))

    def leftovers(self) -> dict[str, tuple[int, bytes]]:
        """Files that the TPM's tools left: mode and content."""
        files = [path for path in self.directory.iterdir() if path.is_file()]
        return {path.name: (path.stat().st_mode & 0o777, path.read_bytes()) for path in files}


MACHINES: dict[str, Machine] = {}


def on_machine(name: str, method: str, *arguments: Any) -> Any:
    """Call a method of a machine, or of its TPM."""
    if name not in MACHINES:
        MACHINES[name] = Machine(name)
    machine = MACHINES[name]
    return getattr(machine if hasattr(machine, method) else machine.tpm, method)(*arguments)


def at_server(function: str, *arguments: Any) -> Any:
    """Call a function of the server."""
    return getattr(verification, function)(*arguments)


def check_ek(public: bytes, certificate: bytes | None, authorities: Sequence[bytes]) -> Any:
    """The server's function, with authorities in PEM."""
    parsed = [x509.load_pem_x509_certificate(authority) for authority in authorities]
    return verification.check_ek(public, certificate, parsed)


def main() -> None:
    """Answer until standard input ends."""
    PosixPath.__module__ = "pathlib"  # Python 3.13 keeps it elsewhere, where that of the tests would not find it
    functions = {function.__name__: function for function in (on_machine, at_server, check_ek)}
    while True:
        try:
            name, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = ("result", functions[name](*arguments))
        except FleetError as exc:
            answer = ("refused", exc.as_failure())
        except Exception:
            answer = ("crashed", traceback.format_exc())
        pickle.dump(answer, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
