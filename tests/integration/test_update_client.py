# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine asks an update server: what it believes and fetches, and what it refuses, each with a line that says why.

nginx with the configuration of role boot_server, and the programs of role update_client, in one network namespace. That
what was fetched is installed, started and left again takes a kernel: e2e/test_update.py.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import hosts
import pytest
from asking import NAME, OS_RELEASE, RESOLVE, STATE, USER, Started, Updates, started
from certificates import P256, Authority, ec_key
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from updates import PRODUCT, write_channel

from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._update import reports
from ansible_collections.vauban.fleet.plugins.module_utils._update.channel import Rollout, place
from ansible_collections.vauban.fleet.plugins.module_utils._update.patch import Patch

REFUSED = 100

# Passes on what nginx says, up to half of the patch in one connection; then it ends that one.
CUTTING = """
import pathlib, socket, sys, threading
listening = socket.create_server(("127.0.0.1", 8443))
pathlib.Path("/run/cutting").touch()
def carry(source, sink, most):
    try:
        while most > 0 and (data := source.recv(min(most, 4096))):
            sink.sendall(data)
            most -= len(data)
    except OSError:
        pass
    for each in (source, sink):
        try:
            each.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
while True:
    client, _ = listening.accept()
    server = socket.create_connection(("127.0.0.1", 443))
    threading.Thread(target=carry, args=(client, server, 1 << 30), daemon=True).start()
    threading.Thread(target=carry, args=(server, client, int(sys.argv[1]) // 2), daemon=True).start()
"""

# Believed by the machine, and not to be: it leads elsewhere, where all is as it should be, or sends without an end.
HOSTILE = """
import http.server, pathlib, ssl, sys, threading
way, place = sys.argv[1:]
class Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *said, **named):
        super().__init__(*said, directory="/srv/vauban", **named)
    def do_GET(self):
        if self.server.server_port == 8080 or not self.path.endswith(place):
            return super().do_GET()
        self.send_response(302 if way == "redirect" else 200)
        if way == "redirect":
            self.send_header("Location", "http://%s:8080%s" % (self.headers["Host"].partition(":")[0], self.path))
        self.end_headers()
        while way == "endless":
            self.wfile.write(bytes(65536))
https, http = (http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) for port in (8443, 8080))
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/var/lib/vauban/https/certificate.pem", "/var/lib/vauban/https/key.pem")
https.socket = context.wrap_socket(https.socket, server_side=True)
threading.Thread(target=http.serve_forever, daemon=True).start()
pathlib.Path("/run/hostile").touch()
https.serve_forever()
"""


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.root("Example Root", ec_key(P256))


@pytest.fixture(scope="module")
def machine(sandbox: Sandbox, authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    with started(sandbox, authority, tmp_path_factory.mktemp("updates")) as made:
        yield made


@pytest.fixture
def updates(machine: Started, tmp_path: Path) -> Updates:
    made = Updates(*machine, tmp_path / "updates")
    made.reset()
    return made


def test_newer_release_is_fetched_whole(updates: Updates) -> None:
    release = updates.publish()
    assert updates.fetch() == (0, "ready to install: 1.1.0\n")
    assert updates.offer() == {"boot-loader.efi", "bundle.raucb", "channel.p7m", "manifest.json", "manifest.json.p7s"}
    fetched = updates.machine.root / STATE[1:] / "offer/bundle.raucb"
    assert fetched.read_bytes() == (release / "bundle").read_bytes()


def test_what_was_fetched_is_not_fetched_again(updates: Updates) -> None:
    release = updates.publish()
    assert updates.fetch()[0] == 0
    (release / "bundle").unlink()
    assert updates.fetch()[0] == 0
    assert "bundle.raucb" in updates.offer()


def test_interrupted_download_goes_on(updates: Updates) -> None:
    """The server's first half is damaged meanwhile: only who asks for the second alone gets it right."""
    release = updates.publish()
    whole = (release / "bundle").read_bytes()
    digest = json.loads((release / "manifest.json").read_text())["bundle"]["sha256"]
    part = updates.machine.root / STATE[1:] / f"{digest}.part"
    part.write_bytes(whole[:1_500_000])
    updates.machine("chown", USER, f"{STATE}/{digest}.part")
    (release / "bundle").write_bytes(bytes(1_500_000) + whole[1_500_000:])
    code, said = updates.fetch()
    assert code == 0, said


def test_nothing_to_do_at_the_same_version(updates: Updates) -> None:
    updates.publish("1.0.0")
    assert updates.fetch() == (0, "up to date: 1.0.0\n")
    assert not updates.offer()


def test_version_that_did_not_start_is_not_tried_again(updates: Updates) -> None:
    updates.publish()
    updates.machine.write("/var/lib/update-install/failed", "1.1.0\n")
    assert updates.fetch() == (0, "version 1.1.0 did not start on this machine, and is not tried again\n")
    assert not updates.offer()
    updates.publish("1.1.1")
    assert updates.fetch()[0] == 0


def test_version_that_waits_for_the_next_start_is_not_fetched_again(updates: Updates) -> None:
    updates.publish()
    updates.machine.write("/var/lib/update-install/last", "installed 1.1.0\n")
    assert updates.fetch() == (0, "installed already: 1.1.0; it runs after the next start\n")
    updates.publish("1.1.1")
    assert updates.fetch()[1] == "ready to install: 1.1.1\n"
    updates.machine.write("/var/lib/update-install/last", "failed 1.1.1\n")
    assert updates.fetch()[1] == "ready to install: 1.1.1\n"


ROOT_HASH = "c" * 64
PATCH = hashlib.shake_256(b"patch").digest(200_000)  # nobody looks into it before it is installed


def _patch(content: bytes = PATCH, **changes: Any) -> dict[str, Any]:
    """What a channel says of a patch from what the machine runs."""
    made = Patch(version="1.0.0", root_hash=ROOT_HASH, size=len(content), sha256=hashlib.sha256(content).hexdigest(),
                 core=len(content) - 300, salt="ab" * 32, uuid="9e7fcff9-ee03-510d-ad6d-732284692920", initrd=200,
                 unpacked=5000, packed=1000, place=512, rest=100)  # fmt: skip
    return replace(made, **changes).as_dict()


def _offer_patch(updates: Updates, content: bytes = PATCH, **changes: Any) -> Path:
    """Let the channel name a patch, and the machine run what it is for; return the server's file."""
    release = updates.publish(core=CORE)
    said = _patch(**changes)
    write_channel(updates.channel, updates.keys, release, patches=[said])
    file = updates.channel.parent / f"1.1.0/{said['sha256']}.patch"
    file.parent.mkdir()
    file.write_bytes(content)
    updates.machine.write("/var/lib/update-install/core", f"{ROOT_HASH}\n")
    return file


CORE = {"file": "core", "size": 50_000, "sha256": "a" * 64,
        "verity": {"root_hash": "a" * 64, "hash_offset": 40_960, "fec_offset": 45_056, "fec_roots": 2}}  # fmt: skip
WITH_PATCH = {"boot-loader.efi", "channel.p7m", "manifest.json", "manifest.json.p7s", "patch"}


def test_patch_that_fits_is_fetched_in_place_of_the_bundle(updates: Updates) -> None:
    _offer_patch(updates)
    (updates.store / f"releases/{PRODUCT}/1.1.0/bundle").unlink()
    assert updates.fetch() == (0, "ready to install: 1.1.0\n")
    assert updates.offer() == WITH_PATCH
    assert (updates.machine.root / STATE[1:] / "offer/patch").read_bytes() == PATCH
    hosts.wait_for(lambda: "1.1.0" in updates.reports()[-1].fetched, "a line in the journal")


def test_patch_that_was_fetched_is_not_fetched_again(updates: Updates) -> None:
    file = _offer_patch(updates)
    assert updates.fetch()[0] == 0
    file.unlink()
    assert updates.fetch()[0] == 0
    assert updates.offer() == WITH_PATCH


def test_interrupted_download_of_a_patch_goes_on(updates: Updates) -> None:
    """As :func:`test_interrupted_download_goes_on`."""
    file = _offer_patch(updates)
    part = f"{STATE}/{file.stem}.part"
    (updates.machine.root / part[1:]).write_bytes(PATCH[:150_000])
    updates.machine("chown", USER, part)
    file.write_bytes(bytes(150_000) + PATCH[150_000:])
    assert updates.fetch() == (0, "ready to install: 1.1.0\n")
    assert updates.offer() == WITH_PATCH


def test_patch_that_does_not_come_whole_is_no_reason_for_the_bundle(updates: Updates) -> None:
    """The server ends the connection in the middle; what has come stays."""
    file = _offer_patch(updates)
    machine = updates.machine
    machine.write("/run/cutting.py", CUTTING)
    machine("rm", "-f", "/run/cutting")
    with machine.running("python3", "/run/cutting.py", str(len(PATCH)), log=updates.directory.with_suffix(".log")):
        hosts.wait_for((machine.root / "run/cutting").exists, "the server that cuts")
        machine.write("/etc/vauban/update/url", f"https://{NAME}:8443\n")
        machine.write("/etc/vauban/update/resolve", f"{NAME}:8443:127.0.0.1\n")
        try:
            code, said = updates.fetch()
        finally:
            machine.write("/etc/vauban/update/url", f"https://{NAME}\n")
            machine.write("/etc/vauban/update/resolve", f"{RESOLVE}\n")
    assert code == 1, said
    assert "no answer that counts" in said
    assert "in place of the patch" not in said
    assert 0 < (machine.root / STATE[1:] / f"{file.stem}.part").stat().st_size < len(PATCH)
    assert updates.fetch() == (0, "ready to install: 1.1.0\n")
    assert updates.offer() == WITH_PATCH


def _none_there(file: Path) -> None:
    file.unlink()


def _another_there(file: Path) -> None:
    file.write_bytes(PATCH[:-1] + bytes([PATCH[-1] ^ 1]))


def _less_there(file: Path) -> None:
    file.write_bytes(PATCH[:-1])


def _more_there(file: Path) -> None:
    file.write_bytes(PATCH + bytes(10_000_000))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (_none_there, "no answer that counts"),
        (_another_there, "refused: not the patch that the channel names"),
        (_less_there, "refused: not the patch that the channel names"),
        (_more_there, "no answer that counts"),
    ],
)
def test_bundle_follows_where_the_patch_is_not_what_it_should_be(
    updates: Updates, change: Callable[[Path], None], line: str
) -> None:
    change(_offer_patch(updates))
    code, said = updates.fetch()
    assert code == 0, said
    assert line in said
    assert "the bundle in place of the patch\n" in said
    assert "bundle.raucb" in updates.offer()
    assert "patch" not in updates.offer()


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"version": "0.9.0"}, id="from another version"),
        pytest.param({"root_hash": "d" * 64}, id="from another build of this version"),
        pytest.param({"size": 3_000_000, "core": 2_999_700}, id="no shorter than the bundle"),
        pytest.param({"place": 19_500}, id="initrd beyond the end of the UKI"),
    ],
)
def test_patch_that_does_not_fit_is_not_fetched(updates: Updates, changes: dict[str, Any]) -> None:
    _offer_patch(updates, **changes)
    assert updates.fetch() == (0, "ready to install: 1.1.0\n")
    assert "bundle.raucb" in updates.offer()


def test_patch_that_did_not_give_the_version_is_not_fetched_again(updates: Updates) -> None:
    file = _offer_patch(updates)
    updates.machine.write("/var/lib/update-install/unpatched", f"{file.stem}\n")
    assert updates.fetch() == (0, "ready to install: 1.1.0\n")
    assert "bundle.raucb" in updates.offer()


def test_machine_that_does_not_know_what_it_runs_fetches_the_bundle(updates: Updates) -> None:
    _offer_patch(updates)
    updates.machine("rm", "/var/lib/update-install/core")
    assert updates.fetch() == (0, "ready to install: 1.1.0\n")
    assert "bundle.raucb" in updates.offer()


@pytest.mark.parametrize(
    "said",
    [
        "all",
        [{}],
        [_patch()] * 17,
        [_patch(size=1)],
        [_patch(initrd=-1, rest=301)],
        [_patch(salt="$(id)")],
        [_patch(uuid="../..")],
        [_patch(sha256="a")],
        [{**_patch(), "initrd": {**_patch()["initrd"], "level": 22}}],
        [{**_patch(), "initrd": {**_patch()["initrd"], "unpacked": 1 << 40}}],
        [{**_patch(), "initrd": {**_patch()["initrd"], "place": "1; id"}}],
    ],
)
def test_patches_that_are_none_are_refused(updates: Updates, said: Any) -> None:
    write_channel(updates.channel, updates.keys, updates.publish(), patches=said)
    code, printed = updates.fetch()
    assert (code, updates.offer()) == (REFUSED, set())
    assert "this is no channel of format 1" in printed


def _channel(**changes: Any) -> Callable[[Updates], None]:
    def make(updates: Updates) -> None:
        write_channel(updates.channel, updates.keys, updates.publish(), **changes)

    return make


def _release(version: str = "1.1.0", **changes: Any) -> Callable[[Updates], None]:
    return lambda updates: (updates.publish(version, **changes), None)[1]


def _altered(name: str) -> Callable[[Updates], None]:
    def make(updates: Updates) -> None:
        release = updates.publish()
        path = updates.channel if name == "channel" else release / name
        before = path.read_bytes()
        # What is signed lies beside certificates, which count for nothing.
        after = before.replace(b'"security_epoch": 1', b'"security_epoch": 2')
        path.write_bytes(after if after != before else before[:-1] + b"x")

    return make


def _replayed(updates: Updates) -> None:
    """Yesterday's offer is good to the end of the month, but today's was seen."""
    older = updates.publish("1.1.0")
    write_channel(updates.channel, updates.keys, updates.publish("1.2.0"))
    assert updates.fetch()[0] == 0
    write_channel(updates.channel, updates.keys, older, age=86_400)


def _renamed(updates: Updates) -> None:
    older = updates.publish("0.9.0")
    newer = shutil.copytree(older, older.with_name("1.1.0"))
    write_channel(updates.channel, updates.keys, newer, version="1.1.0")


def _of_another_size(size: int) -> Callable[[Updates], None]:
    def make(updates: Updates) -> None:
        bundle = updates.publish() / "bundle"
        bundle.write_bytes(bundle.read_bytes().ljust(size, b"x")[:size])

    return make


@pytest.mark.parametrize(
    ("prepare", "line"),
    [
        pytest.param(_channel(signer="release"), "not signed with the product's key publish", id="signer"),
        pytest.param(_altered("channel"), "the channel is not signed", id="altered channel"),
        pytest.param(_channel(age=200, days=0), "the channel expired on ", id="expired"),
        pytest.param(_replayed, "is older than what was seen before", id="replayed"),
        pytest.param(_channel(product="server"), "a channel of product server; this machine is gateway", id="product"),
        pytest.param(_channel(channel="beta"), "this is channel beta, not stable", id="channel"),
        pytest.param(_channel(format=2), "this is no channel of format 1", id="format"),
        pytest.param(_channel(version="1.1.0;id"), "this is no channel of format 1", id="version"),
        pytest.param(_release("0.9.0"), "version 0.9.0 is lower than 1.0.0, which runs", id="lower"),
        pytest.param(_renamed, "version of the manifest is not that of the channel", id="older under a newer name"),
        pytest.param(_channel(version="1.2.0"), "no answer that counts", id="newer name for an older release"),
        pytest.param(_release(security_epoch=0), "security epoch 0 is lower than 1, which runs", id="epoch"),
        pytest.param(_channel(security_epoch=2), "security_epoch of the manifest is not that", id="epoch of channel"),
        pytest.param(_release(signer="publish"), "not signed with the product's key release", id="one signer only"),
        pytest.param(_altered("manifest.json"), "the manifest is not the one that the channel names", id="manifest"),
        pytest.param(_release(instrumentation=["serial_root_shell"]), "an instrumented release", id="instrumented"),
        pytest.param(_altered("bundle"), "not the bundle that the manifest names", id="altered bundle"),
        pytest.param(_of_another_size(2_999_999), "not the bundle that the manifest names", id="truncated"),
        pytest.param(_of_another_size(9_000_000), "no answer that counts", id="oversize"),
    ],
)
def test_is_refused_with_a_line(updates: Updates, prepare: Callable[[Updates], None], line: str) -> None:
    prepare(updates)
    updates.machine("rm", "-rf", f"{STATE}/offer")
    code, said = updates.fetch()
    assert code in (1, REFUSED), said
    assert line in said
    assert not updates.offer()


def test_authority_of_the_system_counts_for_nothing(updates: Updates, authority: Authority) -> None:
    """The server's authority is in the list of the machine, which curl by itself believes."""
    updates.publish()
    machine, stranger = updates.machine, Authority.root("Another Site", ec_key(P256))
    machine.write("/etc/ssl/certs/ca-certificates.crt", authority.pem.decode())
    machine.write("/etc/vauban/update/authority.pem", stranger.pem.decode())
    try:
        path = f"https://{NAME}/update/v1/{PRODUCT}/stable.p7m"
        assert machine.ask("curl", "-sf", "-o", "/dev/null", "--resolve", RESOLVE, path).returncode == 0
        code, said = updates.fetch()
    finally:
        machine.write("/etc/vauban/update/authority.pem", authority.pem.decode())
        machine("rm", "/etc/ssl/certs/ca-certificates.crt")
    assert code == 1, said
    assert "certificate" in said


@pytest.mark.parametrize("place", ["channel", "bundle"])
@pytest.mark.parametrize(
    ("way", "line"),
    [("redirect", "Maximum (0) redirects followed"), ("endless", "Exceeded the maximum allowed file size")],
)
def test_server_that_leads_elsewhere_or_never_ends_is_left(
    updates: Updates, tmp_path: Path, way: str, line: str, place: str
) -> None:
    size = (updates.publish() / "bundle").stat().st_size
    machine, known = updates.machine, {"url": f"https://{NAME}:8443", "resolve": f"{NAME}:8443:127.0.0.1"}
    before = {name: machine("cat", f"/etc/vauban/update/{name}") for name in known}
    arguments = ["python3", "-c", HOSTILE, way, "stable.p7m" if place == "channel" else "/bundle"]
    machine("rm", "-f", "/run/hostile")
    try:
        for name, text in known.items():
            machine.write(f"/etc/vauban/update/{name}", f"{text}\n")
        with machine.running(*arguments, log=tmp_path / "hostile.log"):
            hosts.wait_for(lambda: machine.ask("test", "-e", "/run/hostile").returncode == 0, "the other server")
            code, said = updates.fetch()
    finally:
        for name, text in before.items():
            machine.write(f"/etc/vauban/update/{name}", text)
    assert code == 1, said
    assert line in said
    assert f"no answer that counts: https://{NAME}:8443/" in said
    assert not updates.offer()
    kept = int(machine("du", "--summarize", "--bytes", STATE).split()[0])
    assert kept < 65536 + (2 * size if place == "bundle" else 0) + 1_048_576
    assert updates.fetch() == (0, "ready to install: 1.1.0\n")


def test_machine_of_the_same_product_installs_instrumentation_if_it_is_instrumented(updates: Updates) -> None:
    updates.machine.write("/usr/lib/os-release", OS_RELEASE + "VAUBAN_INSTRUMENTATION=serial_root_shell\n")
    updates.publish(instrumentation=["serial_root_shell"])
    assert updates.fetch()[0] == 0


@pytest.mark.parametrize(
    ("db", "dbx", "said"),
    [
        pytest.param(b"our certificate", b"", "", id="in db"),
        pytest.param(None, None, "", id="no Secure Boot"),
        pytest.param(b"another certificate", b"", "is not in db of this machine's Secure Boot", id="not in db"),
        pytest.param(b"our certificate", b"our certificate", "key that signed the UKI is in dbx", id="key in dbx"),
        pytest.param(b"our certificate", bytes.fromhex("ab" * 32), "the UKI is in dbx", id="UKI in dbx"),
    ],
)
def test_firmware_is_asked_before_anything_is_touched(
    updates: Updates, db: bytes | None, dbx: bytes | None, said: str
) -> None:
    """The part of update-install that does; variables are files of four bytes and lists (UEFI specification, 8.2)."""
    machine, place = updates.machine, "/run/variables"
    machine("sh", "-euc", f"rm -rf {place}; mkdir {place}")
    for name, content in (("db", db), ("dbx", dbx)):
        if content is not None:
            path = machine.root / f"run/variables/{name}-d719b2cb-3d3a-4596-a3bc-dad00e67656f"
            path.write_bytes(bytes(4) + b"list before " + content + b" list after")
    uki = {"signer": base64.b64encode(b"our certificate").decode(), "authenticode_sha256": "ab" * 32}
    machine.write("/run/manifest", json.dumps({"uki": uki}))
    script = f". /usr/lib/vauban/update-firmware; variables={place}; why_firmware_refuses /run/manifest"
    printed = machine("sh", "-euc", f"entries=/efi/EFI/Linux; {script}")
    assert said in printed
    assert bool(said) == bool(printed.strip())


@pytest.mark.parametrize(("signers", "closed"), [(["own"], False), (["other", "own"], False), (["other"], True)])
def test_policy_of_the_tpm_is_looked_for_before_anything_is_touched(
    updates: Updates, signers: list[str], closed: bool
) -> None:
    """The same part; a UKI of the next security epoch is signed by both keys."""
    fingerprints = {}
    for name in ("own", "other"):
        key = rsa.generate_private_key(65537, 2048).public_key()
        updates.machine.write(
            f"/run/{name}.pem", key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        )
        fingerprints[name] = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.PKCS1)).hexdigest()
    policy_keys = [fingerprints[name] for name in signers]
    updates.machine.write("/run/manifest", json.dumps({"uki": {"policy_keys": policy_keys}}))
    script = "entries=/; . /usr/lib/vauban/update-firmware; policy=/run/own.pem; why_state_stays_closed /run/manifest"
    said = updates.machine("sh", "-euc", script)
    assert ("no policy in the UKI is signed by the key" in said) is closed, said


SEED = "0123456789abcdef"
COUNTED = "/sys/firmware/efi/efivars/LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
PLACE = place(SEED, hosts.MACHINE_ID)


def _rollout(updates: Updates, percent: int, state: str = "running", *, version: str = "1.1.0") -> None:
    release = updates.store / "releases" / PRODUCT / version
    if not release.exists():
        updates.publish(version)
    write_channel(updates.channel, updates.keys, release, rollout={"percent": percent, "seed": SEED, "state": state})


@pytest.mark.parametrize(("percent", "takes"), [(0, False), (PLACE, False), (PLACE + 1, True), (100, True)])
def test_machine_finds_out_by_itself_whether_it_is_among_the_first(updates: Updates, percent: int, takes: bool) -> None:
    _rollout(updates, percent)
    code, said = updates.fetch()
    assert code == 0, said
    assert bool(updates.offer()) is takes is Rollout(percent, SEED).includes(hosts.MACHINE_ID)
    assert (
        takes
        or said == f"not yet: version 1.1.0 goes to {percent} of 100 machines, and this one is number {PLACE + 1}\n"
    )


def test_other_machines_are_first_elsewhere(updates: Updates) -> None:
    """What the machine computes is what the controller computes, also for ids whose hash has high bits."""
    machine = updates.machine
    try:
        for name in ("0" * 32, "f" * 32, "00c0ffee" * 4, "deadbeef" * 4):
            machine.write("/etc/machine-id", f"{name}\n")
            number = place(SEED, name)
            _rollout(updates, number)
            assert f"this one is number {number + 1}\n" in updates.fetch()[1]
            _rollout(updates, number + 1)
            assert updates.fetch()[1] == "ready to install: 1.1.0\n"
            machine("rm", "-rf", f"{STATE}/offer")
    finally:
        machine.write("/etc/machine-id", f"{hosts.MACHINE_ID}\n")


@pytest.mark.parametrize(
    ("state", "line"),
    [
        ("paused", "not yet: version 1.1.0 is held back\n"),
        ("withdrawn", "not taken: version 1.1.0 has been withdrawn\n"),
    ],
)
def test_version_that_is_held_back_is_not_taken_any_more(updates: Updates, state: str, line: str) -> None:
    """What was fetched before and is not installed yet goes, too."""
    _rollout(updates, 100)
    assert updates.fetch()[0] == 0
    assert updates.offer()
    _rollout(updates, 100, state)
    assert updates.fetch() == (0, line)
    assert not updates.offer()


def test_withdrawn_version_stays_where_it_runs_and_a_higher_one_follows(updates: Updates) -> None:
    _rollout(updates, 100, "withdrawn", version="1.0.0")
    assert updates.fetch() == (0, "up to date: 1.0.0\n")
    updates.publish("1.0.1")
    assert updates.fetch() == (0, "ready to install: 1.0.1\n")


def test_share_gives_no_way_back(updates: Updates) -> None:
    _rollout(updates, 100, version="0.9.0")
    code, said = updates.fetch()
    assert (code, updates.offer()) == (REFUSED, set())
    assert "version 0.9.0 is lower than 1.0.0, which runs" in said


@pytest.mark.parametrize(
    "rollout",
    [
        {"percent": 101, "seed": SEED, "state": "running"},
        {"percent": 0.5, "seed": SEED, "state": "running"},
        {"percent": "100", "seed": SEED, "state": "running"},
        {"percent": 100, "seed": "$(id)", "state": "running"},
        {"percent": 100, "seed": SEED, "state": "started"},
        {"percent": 100, "seed": SEED},
        [],
        "all",
    ],
)
def test_rollout_that_is_none_is_refused(updates: Updates, rollout: Any) -> None:
    write_channel(updates.channel, updates.keys, updates.publish(), rollout=rollout)
    code, said = updates.fetch()
    assert (code, updates.offer()) == (REFUSED, set())
    assert "this is no channel of format 1" in said


def test_server_hears_who_asks_and_what_was_fetched(updates: Updates) -> None:
    updates.publish()
    first = updates.heard()
    assert (first.address, first.machine) == ("127.0.0.1", hosts.MACHINE_ID)
    assert (first.product, first.version, first.since, first.trial, first.last) == (PRODUCT, "1.0.0", None, False, "ok")
    assert not first.fetched
    assert list(updates.reports()[-1].fetched) == ["1.1.0"]


@pytest.mark.parametrize(
    ("files", "last", "about"),
    [
        pytest.param({"last": "installed 1.1.0"}, "installed", "1.1.0", id="waits for a start"),
        pytest.param({"last": "failed 1.1.0"}, "failed", "1.1.0", id="could not be installed"),
        pytest.param({"last": "installed 1.1.0", "failed": "1.1.0"}, "fell-back", "1.1.0", id="did not start"),
        pytest.param({"last": "installed 1.2.0", "failed": "1.1.0"}, "installed", "1.2.0", id="next try"),
        pytest.param({"failed": "1.1.0\n1.3.0"}, "fell-back", "1.3.0", id="several"),
        pytest.param({"last": "installed 1.0.0", "failed": "0.9.0"}, "ok", "", id="of long ago"),
        pytest.param({"last": "installed"}, "ok", "", id="half a file"),
        pytest.param({"last": "installed $(id)\n", "failed": '1.1.0" x'}, "ok", "", id="not a version"),
    ],
)
def test_server_hears_what_became_of_a_version(updates: Updates, files: dict[str, str], last: str, about: str) -> None:
    updates.publish("1.0.0")
    for name, content in files.items():
        updates.machine.write(f"/var/lib/update-install/{name}", content + "\n")
    heard = updates.heard()
    assert (heard.last, heard.about) == (last, about)


def test_server_hears_that_the_last_answer_was_not_believed(updates: Updates) -> None:
    _channel(signer="release")(updates)
    assert updates.fetch()[0] == REFUSED
    assert updates.heard().last == "refused"
    updates.publish("1.0.0")
    updates.channel.unlink()
    updates.fetch()
    assert updates.heard().last == "no-answer"


def test_server_hears_since_when_a_version_runs_and_that_it_is_on_trial(updates: Updates) -> None:
    updates.publish("1.0.0")
    updates.machine.write("/var/lib/update-install/running", "1.0.0 2026-11-01T07:00:00Z\n")
    updates.machine.write(COUNTED, "")
    try:
        heard = updates.heard()
    finally:
        updates.machine("rm", COUNTED)
    assert heard.since == dt.datetime(2026, 11, 1, 7, tzinfo=dt.UTC).timestamp()
    assert heard.trial
    assert not updates.heard().trial


@pytest.mark.parametrize(
    "agent",
    [
        "vauban-update/1 " + "x" * 401,
        "vauban-update/1 a\x7fb",
        "vauban-update/1 \u00e9",
        "vauban-update/2 product=gateway",
        "curl",
    ],
)
def test_words_of_another_form_are_no_report(updates: Updates, agent: str) -> None:
    def asked_for_the_channel() -> int:
        return sum(line.count("stable.p7m") for line in updates.lines())

    updates.publish("1.0.0")
    before = asked_for_the_channel()
    path = f"https://{NAME}/update/v1/{PRODUCT}/stable.p7m"
    asked = ["curl", "-skf", "-o", "/dev/null", "--resolve", RESOLVE, "--user-agent", agent, path]
    updates.machine(*asked)
    updates.heard()
    assert asked_for_the_channel() == before + 1  # that of the machine


def test_hostile_words_are_counted_and_not_believed(updates: Updates) -> None:
    updates.publish()
    agent = 'vauban-update/1 product=a version="};{" machine=\\x last=ok\\'
    path = f"https://{NAME}/update/v1/{PRODUCT}/stable.p7m"
    updates.machine("curl", "-skf", "-o", "/dev/null", "--resolve", RESOLVE, "--user-agent", agent, path)

    def found() -> list[str]:
        return [line for line in updates.lines() if json.loads(line)["agent"] == agent]

    hosts.wait_for(lambda: bool(found()), "a line in the journal")
    assert reports.reduce(found(), now=time.time()).malformed == 1


def _install(updates: Updates) -> int:
    environment = "STATE_DIRECTORY=/var/lib/update-install RUNTIME_DIRECTORY=/run/update-install"
    script = (
        f"mkdir -p /run/update-install /var/lib/update-install; {environment} exec sh /usr/lib/vauban/update-install"
    )
    return updates.machine.ask("sh", "-euc", script).returncode


def test_server_hears_that_a_version_could_not_be_installed(updates: Updates) -> None:
    """Here there is no volume group at all."""
    updates.publish()
    assert updates.fetch()[0] == 0
    assert _install(updates) != 0
    heard = updates.heard()
    assert (heard.last, heard.about) == ("failed", "1.1.0")


def test_what_is_not_to_be_installed_any_more_is_no_failure(updates: Updates) -> None:
    updates.publish()
    assert updates.fetch()[0] == 0
    updates.machine.write("/usr/lib/os-release", OS_RELEASE.replace("1.0.0", "1.1.0"))
    assert _install(updates) == 0
    assert updates.heard().last == "ok"


# What it waits for in the end is not there.
CHECK = "STATE_DIRECTORY=/var/lib/update-install exec timeout 3 sh /usr/lib/vauban/update-health"


@pytest.mark.parametrize(("running", "failed"), [("1.0.0", "1.1.0\n"), ("1.1.0", "")])
def test_version_has_failed_when_its_tries_are_used_up_and_another_runs(
    updates: Updates, running: str, failed: str
) -> None:
    """At its third try a version has none left, and may still come up."""
    updates.machine.write("/usr/lib/os-release", OS_RELEASE.replace("1.0.0", running))
    script = "rm -rf /efi; mkdir -p /efi/EFI/Linux /var/lib/update-install; cd /efi/EFI/Linux"
    updates.machine("sh", "-euc", f"{script}; touch {PRODUCT}_1.0.0.efi {PRODUCT}_1.1.0+0-3.efi")
    said = updates.machine.ask("sh", "-euc", CHECK).stderr
    assert ("version 1.1.0 did not start in 3 tries; version 1.0.0 runs again" in said) is bool(failed), said
    assert updates.machine("sh", "-c", "cat /var/lib/update-install/failed || true") == failed


def test_machine_notes_since_when_a_version_runs(updates: Updates) -> None:
    def started(version: str) -> float:
        updates.machine.write("/usr/lib/os-release", OS_RELEASE.replace("1.0.0", version))
        updates.machine("mkdir", "-p", "/efi/EFI/Linux", "/var/lib/update-install")
        updates.machine.ask("sh", "-euc", CHECK)
        since = updates.heard().since
        assert since is not None
        return since

    updates.publish("1.1.0")
    first = started("1.0.0")
    assert abs(first - time.time()) < 60
    assert started("1.0.0") == first
    assert started("1.1.0") > first
