# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils._atomic import replacing_directory, write_text
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._vm.process import Process

STATE_FILE = "tpm2-00.permall"  # swtpm's persistent state; there once the TPM was manufactured
SOCKET = "tpm"
PID_FILE = "tpm.pid"  # written once the socket is listening
STOP_GRACE = 5.0  # seconds swtpm has to end by itself once QEMU has hung up


def manufacture(sandbox: Sandbox, state: Path, *, ca: Path | None = None, version: str = "2.0") -> None:
    """Make a TPM 2.0 with endorsement keys and only the SHA-256 bank active (swtpm_setup(8)); keep one that is there.

    :param state: directory that becomes the TPM's state; copy it to clone the TPM.
    :param ca: directory of the manufacturer's CA, made when missing: the TPM then carries certificates of its
        endorsement keys (swtpm_localca(8); root certificate in ``swtpm-localca-rootca-cert.pem``).
    :param version: a TPM 1.2 has nothing that would have to be made.
    :raises CommandError: swtpm_setup failed.
    """
    if version == "1.2":
        state.mkdir(mode=0o700, exist_ok=True)
        return
    if (state / STATE_FILE).is_file():
        return
    words = ["swtpm_setup", "--tpm2", "--tpm-state", "/run/tpm", "--pcr-banks", "sha256"]
    with replacing_directory(state, mode=0o700) as temporary:
        binds = [Bind(temporary, "/run/tpm", writable=True)]
        if ca is None:
            words += ["--createek"]
        else:
            _describe_ca(ca)
            binds += [Bind(ca, "/run/ca", writable=True)]
            words += ["--create-ek-cert", "--config", "/run/ca/swtpm_setup.conf"]
        sandbox.run(words, binds=binds)


class Tpm:
    """A software TPM (swtpm(8)) that runs while the ``with`` block does.

    :param state: made by :func:`manufacture`.
    :param runtime: directory for the control socket, which QEMU finds there as :data:`SOCKET`.
    :param log: gets swtpm's command and messages.
    :param detached: as for :class:`Process`; it then ends when QEMU has hung up.
    :raises FleetError: swtpm did not start; carries its own messages.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        state: Path,
        runtime: Path,
        log: Path,
        *,
        detached: Path | None = None,
        version: str = "2.0",
    ) -> None:
        words = ["swtpm", "socket", "--tpmstate", "dir=/run/tpm", "--terminate"]
        words += ["--tpm2"] if version == "2.0" else []
        words += ["--ctrl", f"type=unixio,path=/run/runtime/{SOCKET}", "--pid", f"file=/run/runtime/{PID_FILE}"]
        binds = [Bind(state, "/run/tpm", writable=True), Bind(runtime, "/run/runtime", writable=True)]
        self._argv = sandbox.argv(words, binds=binds, detached=detached is not None)
        self._runtime = runtime
        self._log = log
        self._detached = detached

    def start(self) -> None:
        """Start it; it can be connected to when this returns."""
        (self._runtime / PID_FILE).unlink(missing_ok=True)
        self._process = Process("swtpm", self._argv, self._log, self._runtime, detached=self._detached)
        try:
            self._process.wait_until((self._runtime / PID_FILE).exists)
        except BaseException:
            self._process.stop()
            raise

    def __enter__(self) -> Tpm:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        self._process.stop(grace=STOP_GRACE if kind is None else 0.0)  # after an error QEMU may never have connected


def _describe_ca(ca: Path) -> None:
    ca.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_text(
        ca / "swtpm_setup.conf",
        "create_certs_tool=/usr/bin/swtpm_localca\n"
        "create_certs_tool_config=/run/ca/swtpm-localca.conf\n"
        "create_certs_tool_options=/etc/swtpm-localca.options\n",
    )
    write_text(
        ca / "swtpm-localca.conf",
        "statedir=/run/ca\n"
        "signingkey=/run/ca/signkey.pem\n"
        "issuercert=/run/ca/issuercert.pem\n"
        "certserial=/run/ca/certserial\n",
    )
