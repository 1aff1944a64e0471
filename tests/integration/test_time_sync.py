# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Role time_sync: chronyd of the image serves and takes time between two network namespaces.

No clock is touched: every chronyd runs with -x and without CAP_SYS_TIME.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hosts
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hosts import Host
from rendering import render
from sdk import SDK

SERVER, CLIENT, NAME = "10.9.0.1", "10.9.0.2", "time.example"
KEYS = {1: "1" * 64, 2: "2" * 64}
CERTIFICATE, KEY = "/var/lib/vauban/nts/certificate.pem", "/var/lib/vauban/nts/key.pem"
BURST = 4  # packets that a client sends at once when it starts (iburst)

Authority = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def authority(name: str) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    return certificate(name, key, None), key


def certificate(name: str, key: ec.EllipticCurvePrivateKey, issuer: Authority | None) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if issuer is not None:
        made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return made.sign(issuer[1] if issuer else key, hashes.SHA256())


def pem(made: x509.Certificate) -> str:
    return made.public_bytes(serialization.Encoding.PEM).decode()


def start(stack: ExitStack, host: Host, path: str, log: Path) -> None:
    """Start chronyd as its unit does: as its user, with the right to listen at port 123 and no other."""
    rights = [
        "--ambient-caps=+net_bind_service",
        "--inh-caps=+net_bind_service",
        "--bounding-set=-all,+net_bind_service",
    ]
    who = ["setpriv", "--reuid=_chrony", "--regid=_chrony", "--init-groups", "--no-new-privs", *rights]
    stack.enter_context(host.running(*who, "chronyd", "-x", "-U", "-F", "1", "-d", "-f", path, log=log))


def source(host: Host, client: str) -> list[str]:
    """What chronyc says of the only source: mode, state, name, stratum, poll, reach, ..."""
    return host("chronyc", "-h", f"/run/chrony/{client}.sock", "-n", "-c", "sources").strip().split(",")


CLIENTS: dict[str, dict[str, Any]] = {
    "right_key": {"server": {"name": SERVER, "nts": False, "key": 1}},
    "wrong_key": {"server": {"name": SERVER, "nts": False, "key": 1}, "keys": {1: "f" * 64}},
    "key_of_no_server": {"server": {"name": SERVER, "nts": False, "key": 3}, "keys": {3: "3" * 64}},
    "no_authentication": {"server": {"name": SERVER, "nts": False, "key": None}},
    "nts": {"server": {"name": NAME, "nts": True, "key": None}, "authority": "ours"},
    "nts_of_another_authority": {"server": {"name": NAME, "nts": True, "key": None}, "authority": "theirs"},
    "nts_without_authority": {"server": {"name": NAME, "nts": True, "key": None}},
    "not_allowed": {"server": {"name": "10.9.1.1", "nts": False, "key": 1}},
}


@pytest.fixture(scope="module")
def client(image: tuple[Path, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A host with a client of each kind, which have all had time to measure."""
    directory = tmp_path_factory.mktemp("time")
    authorities = {name: authority(name) for name in ("ours", "theirs")}
    with ExitStack() as stack:
        one, other = (
            stack.enter_context(hosts.host(name, SDK, image, directory / name)) for name in ("server", "client")
        )
        hosts.connect(one, other, (f"{SERVER}/24", f"{CLIENT}/24"))
        one("ip", "address", "add", "10.9.1.1/24", "dev", "wire")
        other("ip", "address", "add", "10.9.1.2/24", "dev", "wire")
        key = ec.generate_private_key(ec.SECP256R1())
        private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        secret = key.private_bytes(serialization.Encoding.PEM, *private).decode()
        one.write(KEY, secret, mode="0640", owner="root:_chrony")
        one.write(CERTIFICATE, pem(certificate(NAME, key, authorities["ours"])))
        write_keys(one, "/etc/chrony/chrony.keys", KEYS)
        instance = {"name": "logs", "addresses": [], "clients": ["10.9.0.0/24"]}
        files = {"time_sync_nts_certificate": CERTIFICATE, "time_sync_nts_key": KEY}
        for path, content in render("time_sync", time_sync_instances=[instance], **files).items():
            one.write(f"/{path}", content)
        for place in ("/run/chrony-server-logs", "/var/lib/chrony-server/logs"):
            one("install", "-d", "-o", "_chrony", "-g", "_chrony", "-m", "0700", place)
        start(stack, one, "/etc/chrony/instances/logs.conf", directory / "server.log")
        other.write("/etc/hosts", f"127.0.0.1 localhost\n{SERVER} {NAME}\n")
        other("install", "-d", "-o", "_chrony", "-g", "_chrony", "-m", "0700", "/run/chrony")
        for name, case in CLIENTS.items():
            trusted = [pem(authorities[case["authority"]][0])] if "authority" in case else []
            rendered = render("time_sync", time_sync_servers=[case["server"]], time_sync_nts_authorities=trusted)
            own = f"/etc/chrony/{name}"
            write_keys(other, f"{own}.keys", case.get("keys", KEYS))
            other.write(f"{own}.pem", rendered["etc/chrony/nts_authorities.pem"])
            text = rendered["etc/chrony/chrony.conf"]
            text = text.replace("/etc/chrony/chrony.keys", f"{own}.keys").replace(
                "/var/lib/chrony", f"/run/chrony/{name}"
            )
            text = text.replace("/etc/chrony/nts_authorities.pem", f"{own}.pem")
            other("install", "-d", "-o", "_chrony", "-g", "_chrony", "-m", "0700", f"/run/chrony/{name}")
            other.write(
                f"{own}.conf", f"{text}pidfile /run/chrony/{name}.pid\nbindcmdaddress /run/chrony/{name}.sock\n"
            )
            start(stack, other, f"{own}.conf", directory / f"{name}.log")
        for name in ("right_key", "nts"):
            hosts.wait_for(lambda name=name: source(other, name)[1] == "*", f"{name}: selected", within=30)  # type: ignore[misc]
        for name, case in CLIENTS.items():
            if not case["server"]["nts"]:  # those without a key of the server send nothing
                hosts.wait_for(lambda name=name: sent(other, name) >= BURST, f"{name}: asked", within=30)  # type: ignore[misc]
        other("sleep", "2")  # for the last answer
        yield other


def sent(host: Host, client: str) -> int:
    """How many packets a client has sent."""
    shown = host("chronyc", "-h", f"/run/chrony/{client}.sock", "-n", "ntpdata")
    return int(re.findall(r"(?m)^Total TX +: (\d+)$", shown)[0])


def write_keys(host: Host, path: str, keys: dict[int, str]) -> None:
    text = "".join(f"{number} SHA256 HEX:{key}\n" for number, key in keys.items())
    host.write(path, text, mode="0640", owner="root:_chrony")


@pytest.mark.parametrize("name", ["right_key", "nts"])
def test_authenticated_time_is_taken(client: Host, name: str) -> None:
    _mode, state, _name, stratum, *_others = source(client, name)
    assert (state, stratum) == ("*", "10")


@pytest.mark.parametrize("name", sorted(set(CLIENTS) - {"right_key", "nts"}))
def test_other_time_is_not(client: Host, name: str) -> None:
    assert source(client, name)[1] == "?"


def test_answers_without_authentication_are_seen_and_count_for_nothing(client: Host) -> None:
    """The server is there: it is the client that refuses."""
    assert source(client, "no_authentication")[5] != "0"


@pytest.mark.parametrize("name", ["wrong_key", "key_of_no_server", "not_allowed"])
def test_server_does_not_answer_who_has_no_right(client: Host, name: str) -> None:
    assert source(client, name)[5] == "0"
