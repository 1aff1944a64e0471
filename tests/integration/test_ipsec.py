# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the IPsec profiles accept and refuse: two real daemons, certificates of all kinds, packets on the wire.

The configuration is that of the roles. ESP runs in user space, which knows no extended sequence numbers: where packets
are to flow, both ends go without, and nothing else differs.
"""

from __future__ import annotations

import re
import socket
import struct
import subprocess
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import newer
import pytest
import rendering
import yaml
from certificates import BRAINPOOL, DAY, NOW, P256, Authority, Certificate, ec_key, pem, rsa_key
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from ipsec import Daemon, wait_for
from lab import SHARED, Lab, lab
from playing import play_in_tree
from sdk import SDK

from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, remove_tree

CLIENT, GATEWAY = "client.example", "gateway.example"
CLIENT_ADDRESS, GATEWAY_ADDRESS = "192.0.2.1", "192.0.2.2"
INSIDE, BEYOND = "10.0.0.1", "10.1.0.1"
# What swanctl says of an association with ML-KEM-768 as additional key exchange.
TWICE = "KE1_ML_KEM_768"
# Where the root tree with a newer strongSwan appears to the programs.
NEWER = "/run/newer"
CONSTANTS = yaml.safe_load((rendering.ROLES / "strongswan/vars/main.yml").read_text())
DR = CONSTANTS["__strongswan_profiles"]["dr"]
ENDS = ("client", "gateway")
REFUSES = pytest.mark.parametrize("refusing", ENDS)
Change = Callable[[str], str]


def unchanged(text: str) -> str:
    return text


def without_esn(text: str) -> str:
    return text.replace("-esn", "-noesn")


def instead(old: str, new: str) -> Change:
    """The configuration of a peer that does otherwise; packets may flow."""

    def change(text: str) -> str:
        return without_esn(text).replace(old, new)

    return change


def accepting_anything(text: str, signs: str = "pubkey") -> str:
    """The configuration of a peer that authenticates itself, and others, in another way."""
    text = re.sub(r"local {\n", "local {\n  certs = own.pem\n", without_esn(text))
    return re.sub(r"auth = .*", f"auth = {signs}", text).replace("revocation = strict", "revocation = relaxed")


class Pair:
    """A client and a gateway.

    :param newer_ends: those that run programs of :data:`NEWER` in place of the SDK's.
    """

    def __init__(self, made: Lab, newer_ends: Collection[str] = ()) -> None:
        self.lab = made
        self.daemons = {end: Daemon(made, end, root=NEWER if end in newer_ends else None) for end in ENDS}
        self.client, self.gateway = self.daemons.values()
        self.root = Authority.root("Root")
        self.own = {"client": self.root.issue(CLIENT), "gateway": self.root.issue(GATEWAY)}

    def configure(self, end: str, *, change: Change = without_esn, **options: Any) -> None:
        """Give an end the configuration of its role, with these exceptions."""
        initiator = end == "client"
        here, there = (CLIENT, GATEWAY) if initiator else (GATEWAY, CLIENT)
        local, remote = (INSIDE, BEYOND) if initiator else (BEYOND, INSIDE)
        child = {"name": "admin", "if_id": 1, "local": [f"{local}/32"], "remote": [f"{remote}/32"], "start": "none"}
        connection = {
            "name": "office",
            "initiator": initiator,
            "profile": "dr",
            "local_addresses": [],
            "remote_addresses": [GATEWAY_ADDRESS] if initiator else [],
            "local_identity": here,
            "remote_identity": there,
            "authorities": ["root.pem"],
            "children": [child],
            **options.pop("connection", {}),
        }
        options.setdefault("own", self.own[end])
        options.setdefault("authorities", {"root.pem": self.root.pem})
        options.setdefault("revocations", [self.root.revocations()])
        self.daemons[end].configure([connection], change=change, **options)

    def give_address(self, end: str) -> None:
        """In user space it is a TUN interface of the daemon's own that leads to ESP."""
        here, there = (INSIDE, BEYOND) if end == "client" else (BEYOND, INSIDE)
        self.lab.add_address(end, "ipsec0", f"{here}/32")
        self.lab.run("ip", "-netns", end, "route", "add", there, "dev", "ipsec0")

    def connect(self) -> subprocess.CompletedProcess[str]:
        return self.client.initiate("office", "admin")

    def carries(self) -> bool:
        """Whether a packet comes through the tunnel."""
        listening = self.lab.socket("gateway", socket.AF_INET, socket.SOCK_DGRAM)
        sending = self.lab.socket("client", socket.AF_INET, socket.SOCK_DGRAM)
        with listening, sending:
            listening.bind((BEYOND, 7))
            listening.settimeout(2)
            sending.bind((INSIDE, 7))
            sending.sendto(b"through the tunnel", (BEYOND, 7))
            try:
                return listening.recvfrom(100) == (b"through the tunnel", (INSIDE, 7))
            except TimeoutError:
                return False

    def assert_refused(self, refusing: str, reason: str) -> None:
        """The tunnel does not come up, and this end says that this is why."""
        done = self.connect()
        assert done.returncode != 0, done.stdout
        log = self.daemons[refusing].log()
        assert re.search(reason, log), log
        assert "INSTALLED" not in self.daemons[refusing].associations()


@contextmanager
def started(directory: Path, *, newer_ends: Collection[str] = (), tree: Path | None = None) -> Iterator[Pair]:
    """A client and a gateway that are connected by a cable.

    :param tree: what lies at :data:`NEWER`.
    """
    with lab(directory, binds=[Bind(tree, NEWER)] if tree else []) as made:
        made.add_tun_device()
        if tree:
            made.add_root(NEWER)
        for name in ENDS:
            made.add_namespace(name, ipv6=False)
        made.add_link(("client", "eth0"), ("gateway", "eth0"))
        made.add_address("client", "eth0", f"{CLIENT_ADDRESS}/24")
        made.add_address("gateway", "eth0", f"{GATEWAY_ADDRESS}/24")
        pair = Pair(made, newer_ends)
        try:
            for end, daemon in pair.daemons.items():
                daemon.start()
                pair.give_address(end)
            yield pair
        finally:
            for daemon in pair.daemons.values():
                daemon.stop()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with started(tmp_path_factory.mktemp("ipsec") / "shared") as made:
        yield made


@pytest.fixture
def pair(running: Pair) -> Pair:
    """Both ends as their roles configure them."""
    for end in running.daemons:
        running.configure(end)
    return running


class Capture:
    """Packets on the wire, from the moment it is made."""

    def __init__(self, made: Lab) -> None:
        everything = socket.htons(0x0003)
        self._socket = made.socket("gateway", socket.AF_PACKET, socket.SOCK_DGRAM, everything)
        self._socket.bind(("eth0", 0x0003))
        self._socket.settimeout(0.2)

    def packets(self) -> Iterator[bytes]:
        """The IP packets, with their header."""
        try:
            while True:
                packet, address = self._socket.recvfrom(65536)
                if address[1] in (0x0800, 0x86DD):
                    yield packet
        except TimeoutError:
            self._socket.close()


@pytest.mark.parametrize("curve", [BRAINPOOL, P256], ids=["brainpoolP256r1", "P-256"])
def test_tunnel_comes_up_and_carries_packets(pair: Pair, curve: ec.EllipticCurve) -> None:
    root = Authority.root("Root", ec_key(curve))
    for end, identity in (("client", CLIENT), ("gateway", GATEWAY)):
        own = root.issue(identity, ec_key(curve))
        pair.configure(end, own=own, authorities={"root.pem": root.pem}, revocations=[root.revocations()])
    assert not pair.carries()
    done = pair.connect()
    assert done.returncode == 0, done.stdout
    assert pair.carries()
    for daemon in pair.daemons.values():
        assert "AES_GCM_16-256/PRF_HMAC_SHA2_256/ECP_256_BP" in daemon.associations()
        assert re.search(r"TUNNEL-in-UDP, ESP:AES_GCM_16-256", daemon.associations())


def test_daemon_has_one_user_and_one_capability(pair: Pair) -> None:
    status = pair.lab.run("sh", "-c", "cat /proc/$(pidof -s charon-systemd)/status", namespace="client").stdout
    fields = dict(re.findall(r"(\w+):\s+(.*)", status))
    assert set(fields["Uid"].split()) == {"200"}
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(fields[kind], 16) == 1 << 12, kind  # CAP_NET_ADMIN


def test_d1_version_1_is_not_answered(pair: Pair) -> None:
    """Main and aggressive mode, as the firewall of a machine lets them through to the daemon, or does not."""
    rulesets = yaml.safe_load((rendering.ROLES / "firewall/vars/main.yml").read_text())["__firewall_rulesets"]
    rule = {**rulesets[0]["input"][0], "comment": "IKE", "ports": [4500], "source_ports": []}
    host = {**rulesets[0], "input": [rule], "output": []}
    rules = rendering.render("firewall", firewall_rulesets=[host], firewall_log_rate="10/minute")
    pair.lab.run("nft", "-f", "-", namespace="gateway", stdin=rules["etc/nftables.d/host.nft"])
    try:
        with pair.lab.socket("client", socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind((CLIENT_ADDRESS, 5000))
            sender.settimeout(1)
            for version, answered in ((0x20, True), (0x10, False)):
                for exchange in (34,) if version == 0x20 else (2, 4):
                    sender.sendto(_first_message(version, exchange), (GATEWAY_ADDRESS, 4500))
                    try:
                        found = bool(sender.recv(4096))
                    except TimeoutError:
                        found = False
                    assert found is answered, f"version {version:x}, exchange {exchange}"
    finally:
        pair.lab.run("nft", "flush", "ruleset", namespace="gateway")


def _first_message(version: int, exchange: int) -> bytes:
    body = _proposal_of_version_1() if version == 0x10 else _request_of_version_2()
    flags = 8 if version == 0x20 else 0
    first, length = body[0], 28 + len(body) - 1
    header = struct.pack(">8s8sBBBBII", b"\1" * 8, bytes(8), first, version, exchange, flags, 0, length)
    return bytes(4) + header + body[1:]


def _proposal_of_version_1() -> bytes:
    """AES-256, SHA-1, group 14, shared secret: what a peer of 2005 would say. The first byte names the payload."""
    attributes = struct.pack(">12H", 0x8001, 7, 0x800E, 256, 0x8002, 2, 0x8003, 1, 0x8004, 14, 0x800B, 1)
    transform = struct.pack(">BBHBBH", 0, 0, 8 + len(attributes), 1, 1, 0) + attributes
    proposal = struct.pack(">BBHBBBB", 0, 0, 8 + len(transform), 1, 1, 0, 1) + transform
    return b"\1" + struct.pack(">BBHII", 0, 0, 12 + len(proposal), 1, 1) + proposal


def _request_of_version_2() -> bytes:
    """A nonce alone: enough to be answered, with an error."""
    return b"\x28" + struct.pack(">BBH", 0, 0, 36) + bytes(32)


def test_d1_peer_of_version_1_is_refused(pair: Pair) -> None:
    pair.configure("client", change=instead("version = 2", "version = 1"))
    pair.assert_refused("gateway", "no IKE config found|no .* config found")


def test_d2_nothing_but_port_4500(pair: Pair) -> None:
    capture = Capture(pair.lab)
    assert pair.connect().returncode == 0
    assert pair.carries()
    assert pair.client.swanctl("--rekey", "--child", "admin").returncode == 0
    assert pair.client.swanctl("--terminate", "--ike", "office").returncode == 0
    packets = list(capture.packets())
    assert len(packets) > 8
    for packet in packets:
        assert packet[0] >> 4 == 4
        assert packet[9] == socket.IPPROTO_UDP
        assert struct.unpack(">HH", packet[20:24]) == (4500, 4500)
        assert b"through the tunnel" not in packet
    assert any(packet[28:32] != bytes(4) for packet in packets), "no ESP was seen"


@pytest.mark.parametrize("fixed", [False, True], ids=["anywhere", "fixed"])
def test_only_an_end_that_may_be_anywhere_may_move(pair: Pair, fixed: bool) -> None:
    pair.configure("client", connection={"local_addresses": [CLIENT_ADDRESS] if fixed else []})
    assert pair.connect().returncode == 0
    assert ("N(MOBIKE_SUP)" in pair.gateway.log()) is not fixed


def test_d3_authentication_makes_no_child(pair: Pair) -> None:
    assert pair.connect().returncode == 0
    log = pair.client.log()
    exchange = re.findall(r"generating IKE_AUTH request \d+ \[ (.*) \]", log)
    assert len(exchange) == 1
    assert not {"SA", "TSi", "TSr"} & set(exchange[0].split())
    assert re.search(r"generating CREATE_CHILD_SA request \d+ \[ SA No KE TSi TSr \]", log)


@REFUSES
def test_d3_peer_that_is_not_childless_is_refused(pair: Pair, refusing: str) -> None:
    other = "gateway" if refusing == "client" else "client"
    pair.configure(other, change=instead("childless = force", "childless = never"))
    pair.assert_refused(refusing, "childless")


def test_d4_every_rekeying_exchanges_keys(pair: Pair) -> None:
    assert pair.connect().returncode == 0
    pair.client.log()
    for what in (("--child", "admin"), ("--ike", "office")):
        assert pair.client.swanctl("--rekey", *what).returncode == 0
    wait_for(lambda: "ESTABLISHED" in pair.client.associations(), "no association after rekeying")
    log = ""

    def seen() -> bool:
        nonlocal log
        log += pair.client.log()
        return len(re.findall("generating CREATE_CHILD_SA request", log)) >= 2

    wait_for(seen, "no rekeying")
    exchanges = re.findall(r"generating CREATE_CHILD_SA request \d+ \[ (.*) \]", log)
    assert all("KE" in exchange.split() for exchange in exchanges), exchanges
    wait_for(pair.carries, "nothing comes through after rekeying")


def test_d4_child_without_key_exchange_is_refused(pair: Pair) -> None:
    pair.configure("client", change=instead("-ecp256bp-noesn", "-noesn"))
    pair.configure("client", **_offering(DR["ike"], ["aes256gcm16-noesn"]))
    pair.assert_refused("gateway", "no acceptable KEY_EXCHANGE_METHOD|NO_PROP|no acceptable")


def _offering(ike: Sequence[str], esp: Sequence[str]) -> dict[str, Any]:
    return {"__strongswan_profiles": {"dr": {"ike": list(ike), "esp": list(esp)}}}


@pytest.mark.parametrize("proposal", DR["ike"])
def test_d5_to_d7_each_proposal_is_accepted(pair: Pair, proposal: str) -> None:
    esp = "-".join(part for part in proposal.split("-") if not part.startswith("prf")) + "-noesn"
    pair.configure("client", **_offering([proposal], [esp]))
    done = pair.connect()
    assert done.returncode == 0, done.stdout
    assert pair.carries()


@REFUSES
@pytest.mark.parametrize(
    "proposal",
    [
        "aes256-sha256-prfsha256-ecp256bp",
        "aes256-sha1-prfsha256-ecp256bp",
        "aes128gcm16-prfsha256-ecp256bp",
        "aes256gcm8-prfsha256-ecp256bp",
        "aes256gcm12-prfsha256-ecp256bp",
        "aes256ctr-sha1-prfsha256-ecp256bp",
        "aes256ctr-sha512-prfsha256-ecp256bp",
        "aes128ctr-sha256-prfsha256-ecp256bp",
        "chacha20poly1305-prfsha256-ecp256bp",
        "3des-sha256-prfsha256-ecp256bp",
        "aes256gcm16-prfsha1-ecp256bp",
        "aes256gcm16-prfsha384-ecp256bp",
        "aes256gcm16-prfsha256-modp2048",
        "aes256gcm16-prfsha256-modp4096",
        "aes256gcm16-prfsha256-curve25519",
        "aes256gcm16-prfsha256-ecp384",
        "aes256gcm16-prfsha256-ecp384bp",
        "aes256gcm16-prfsha256-ecp521",
    ],
)
def test_d5_to_d7_other_offers_for_ike_are_refused(pair: Pair, proposal: str, refusing: str) -> None:
    other = "gateway" if refusing == "client" else "client"
    pair.configure(other, **_offering([proposal], ["aes256gcm16-ecp256bp-noesn"]))
    pair.assert_refused(refusing, "NO_PROPOSAL_CHOSEN|no acceptable|N\\(NO_PROP\\)")


@pytest.mark.parametrize(
    "proposal",
    [
        "aes256-sha256-ecp256bp-noesn",
        "aes128gcm16-ecp256bp-noesn",
        "aes256gcm8-ecp256bp-noesn",
        "aes256ctr-sha1-ecp256bp-noesn",
        "aes256ctr-sha512-ecp256bp-noesn",
        "chacha20poly1305-ecp256bp-noesn",
        "null-sha256-ecp256bp-noesn",
        "aes256gcm16-modp2048-noesn",
        "aes256gcm16-curve25519-noesn",
        "aes256gcm16-ecp384-noesn",
    ],
)
def test_d5_and_d6_other_offers_for_esp_are_refused(pair: Pair, proposal: str) -> None:
    pair.configure("client", **_offering(DR["ike"], [proposal]))
    pair.assert_refused("gateway", "no acceptable|N\\(NO_PROP\\)|INVAL_KE")


def test_d8_child_without_extended_sequence_numbers_is_refused(pair: Pair) -> None:
    """The offer of the role itself, unchanged on this end; that it is used is seen on machines."""
    pair.configure("gateway", change=unchanged)
    pair.assert_refused("gateway", "no acceptable EXTENDED_SEQUENCE_NUMBERS found")


# ---- D9: who is believed


@pytest.fixture(scope="module")
def sha1_certificate(running: Pair, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Certificate]:
    """Signed by the right authority with SHA-1, which Python's library does not do any more."""

    def issue(identity: str) -> Certificate:
        key, made = ec_key(), running.lab
        (made.directory / "key.pem").write_bytes(pem(key))
        (made.directory / "root.key").write_bytes(pem(running.root.key))
        (made.directory / "root.pem").write_bytes(running.root.pem)
        (made.directory / "extensions").write_text(f"subjectAltName = DNS:{identity}\nbasicConstraints = CA:FALSE\n")
        subject = ["-subj", f"/CN={identity}", "-key", f"{SHARED}/key.pem"]
        request = made.run("openssl", "req", "-new", *subject).stdout
        authority = ["-CA", f"{SHARED}/root.pem", "-CAkey", f"{SHARED}/root.key", "-extfile", f"{SHARED}/extensions"]
        signed = made.run("openssl", "x509", "-req", "-sha1", "-days", "9", *authority, stdin=request).stdout
        certificate = x509.load_pem_x509_certificate(signed.encode())
        assert certificate.signature_algorithm_oid.dotted_string == "1.2.840.10045.4.1"
        return Certificate(certificate, key)

    return issue


# What the peer shows, how it signs, and what the other end says to it.
BAD_CERTIFICATES: dict[str, tuple[Callable[[Authority, str], Certificate], str, str]] = {
    "RSA": (lambda root, name: root.issue(name, rsa_key()), "pubkey", "RSA"),
    "P-384": (
        lambda root, name: root.issue(name, ec_key(ec.SECP384R1())),
        "pubkey",
        # A peer that was told of SHA-256 alone gives up itself.
        "ECDSA_WITH_SHA384_DER not acceptable|received AUTHENTICATION_FAILED",
    ),
    "signed with SHA-384": (
        lambda root, name: root.issue(name, digest=hashes.SHA384()),
        "pubkey",
        "X.509 signature scheme ECDSA_WITH_SHA384_DER not acceptable",
    ),
    "expired": (
        lambda root, name: root.issue(name, valid=(NOW - 9 * DAY, NOW - DAY)),
        "pubkey",
        "subject certificate invalid",
    ),
    "not yet valid": (
        lambda root, name: root.issue(name, valid=(NOW + DAY, NOW + 9 * DAY)),
        "pubkey",
        "subject certificate invalid",
    ),
    "other authority of the same name": (
        lambda _root, name: Authority.root("Root").issue(name),
        "pubkey",
        "no issuer certificate found|no trusted",
    ),
    "other authority": (
        lambda _root, name: Authority.root("Other").issue(name),
        "pubkey",
        "no issuer certificate found",
    ),
    "an authority": (lambda root, _name: root, "pubkey", "no trusted ECDSA public key found"),
    "an authority with the name of the host": (
        lambda root, name: root.issue(name, authority=True),
        "pubkey",
        "rejecting certificate without digitalSignature",
    ),
    "other identity": (lambda root, _name: root.issue("other.example"), "pubkey", "no trusted ECDSA public key found"),
}


@REFUSES
@pytest.mark.parametrize("case", BAD_CERTIFICATES)
def test_d9_bad_certificate_is_refused(pair: Pair, case: str, refusing: str) -> None:
    other, identity = ("gateway", GATEWAY) if refusing == "client" else ("client", CLIENT)
    issue, signs, reason = BAD_CERTIFICATES[case]
    pair.configure(other, change=partial(accepting_anything, signs=signs), own=issue(pair.root, identity))
    pair.assert_refused(refusing, reason)


@REFUSES
def test_d9_certificate_signed_with_sha1_is_refused(
    pair: Pair, refusing: str, sha1_certificate: Callable[[str], Certificate]
) -> None:
    other, identity = ("gateway", GATEWAY) if refusing == "client" else ("client", CLIENT)
    pair.configure(other, change=accepting_anything, own=sha1_certificate(identity))
    pair.assert_refused(refusing, "X.509 signature scheme ECDSA_WITH_SHA1_DER not acceptable")


def test_d9_chain_with_an_issuing_authority(pair: Pair) -> None:
    """Root and issuing authority are as people set them up: both with lists, the peer shows its certificate alone."""
    issuing = pair.root.issuing("Issuing")
    for end, identity in (("client", CLIENT), ("gateway", GATEWAY)):
        pair.configure(
            end,
            own=issuing.issue(identity),
            authorities={"root.pem": pair.root.pem, "issuing.pem": issuing.pem},
            revocations=[pair.root.revocations(), issuing.revocations()],
            connection={"authorities": ["issuing.pem"]},
        )
    done = pair.connect()
    assert done.returncode == 0, done.stdout


@REFUSES
def test_d9_weak_signature_within_the_chain_is_refused(pair: Pair, refusing: str) -> None:
    issuing = pair.root.issuing("Issuing", digest=hashes.SHA384())
    for end, identity in (("client", CLIENT), ("gateway", GATEWAY)):
        pair.configure(
            end,
            change=without_esn if end == refusing else accepting_anything,
            own=issuing.issue(identity),
            authorities={"root.pem": pair.root.pem, "issuing.pem": issuing.pem},
            revocations=[pair.root.revocations(), issuing.revocations()],
        )
    pair.assert_refused(refusing, "X.509 signature scheme ECDSA_WITH_SHA384_DER not acceptable")


@REFUSES
def test_d9_other_authority_that_is_trusted_too_is_refused(pair: Pair, refusing: str) -> None:
    """Each connection names its authority; those of other connections do not count."""
    other, identity = ("gateway", GATEWAY) if refusing == "client" else ("client", CLIENT)
    second = Authority.root("Second")
    pair.configure(other, own=second.issue(identity), change=accepting_anything)
    pair.configure(
        refusing,
        authorities={"root.pem": pair.root.pem, "second.pem": second.pem},
        revocations=[pair.root.revocations(), second.revocations()],
    )
    pair.assert_refused(refusing, "constraint check failed: peer not authenticated by CA")


def test_d9_identity_that_no_connection_names_is_refused(pair: Pair) -> None:
    """Its certificate is good, and of the right authority."""
    pair.configure("client", own=pair.root.issue("other.example"), connection={"local_identity": "other.example"})
    pair.assert_refused("gateway", "no matching peer config found")


@REFUSES
@pytest.mark.parametrize(
    ("revocations", "reason"),
    [
        (lambda pair, bad: [pair.root.revocations(bad)], "certificate was revoked"),
        (lambda pair, _bad: [pair.root.revocations(until=NOW - DAY)], "crl is stale"),
        (lambda _pair, _bad: [], "certificate status is not available|revocation"),
        (lambda _pair, _bad: [Authority.root("Root").revocations()], "certificate status is not available|revocation"),
    ],
    ids=["revoked", "stale", "absent", "of another authority"],
)
def test_d10_without_a_good_revocation_list_nobody_is_believed(
    pair: Pair, refusing: str, revocations: Callable[[Pair, Certificate], list[bytes]], reason: str
) -> None:
    other = "gateway" if refusing == "client" else "client"
    pair.configure(other, change=accepting_anything)
    pair.configure(refusing, revocations=revocations(pair, pair.own[other]))
    pair.assert_refused(refusing, reason)


@REFUSES
def test_d10_every_authority_of_the_chain_needs_a_list(pair: Pair, refusing: str) -> None:
    issuing = pair.root.issuing("Issuing")
    for end, identity in (("client", CLIENT), ("gateway", GATEWAY)):
        pair.configure(
            end,
            change=without_esn if end == refusing else accepting_anything,
            own=issuing.issue(identity),
            authorities={"root.pem": pair.root.pem, "issuing.pem": issuing.pem},
            revocations=[issuing.revocations()],
        )
    pair.assert_refused(refusing, "certificate status is not available|revocation")


def test_d12_lifetimes_are_bounded(pair: Pair) -> None:
    assert pair.connect().returncode == 0
    for daemon in pair.daemons.values():
        found = daemon.associations()
        ike = re.search(r"rekeying in (\d+)s, reauth in (\d+)s", found)
        child = re.search(r"rekeying in (\d+)s, expires in (\d+)s", found)
        assert ike, found
        assert child, found
        assert int(ike[1]) <= 4 * 3600
        assert int(ike[2]) <= (12 if daemon is pair.client else 13) * 3600
        assert int(child[1]) < int(child[2]) <= 2 * 3600


def test_new_authentication_keeps_the_tunnel(pair: Pair) -> None:
    assert pair.connect().returncode == 0
    before = re.findall(r"^office: #(\d+)", pair.gateway.associations(), re.MULTILINE)
    pair.client.swanctl("--rekey", "--ike", "office", "--reauth")

    def replaced() -> bool:
        now = re.findall(r"^office: #(\d+)", pair.gateway.associations(), re.MULTILINE)
        return len(now) == 1 and now != before

    wait_for(replaced, "the old association stays")
    wait_for(pair.carries, "nothing comes through any more")


def test_d10_new_list_counts_at_the_next_authentication(pair: Pair) -> None:
    assert pair.connect().returncode == 0
    pair.gateway.replace_revocations([pair.root.revocations(pair.own["client"])])
    pair.client.swanctl("--rekey", "--ike", "office", "--reauth")
    wait_for(lambda: "certificate was revoked" in pair.gateway.log(), "the new list is not looked at")


def test_client_that_does_not_authenticate_anew_loses_its_tunnel(pair: Pair) -> None:
    """As one would whose certificate was revoked. The gateway's patience is shortened to seconds."""
    hurry: dict[str, Any] = {"__strongswan_reauthentication": {True: 3600, False: 3}, "__strongswan_ike_overtime": 2}
    pair.configure("gateway", **hurry)
    assert pair.connect().returncode == 0
    assert pair.carries()
    wait_for(lambda: "ESTABLISHED" not in pair.gateway.associations(), "the gateway is too patient", seconds=20)
    assert not pair.carries()


def test_peer_that_comes_again_replaces_itself(pair: Pair) -> None:
    """A client that was reset does not wait until its old association dies."""
    assert pair.connect().returncode == 0
    pair.client.restart()
    pair.give_address("client")
    pair.configure("client")
    done = pair.connect()
    assert done.returncode == 0, done.stdout
    wait_for(lambda: pair.gateway.associations().count("ESTABLISHED") == 1, "both associations stay")
    assert pair.carries()


def test_modern_profile_is_the_other_where_no_end_has_ml_kem(pair: Pair) -> None:
    """As on Debian 13."""
    for end in pair.daemons:
        pair.configure(end, connection={"profile": "modern"})
    assert_no_ml_kem(pair)


def assert_no_ml_kem(pair: Pair) -> None:
    """A tunnel comes up as with profile dr, and carries packets."""
    done = pair.connect()
    assert done.returncode == 0, done.stdout
    for daemon in pair.daemons.values():
        found = daemon.associations()
        assert "AES_GCM_16-256/PRF_HMAC_SHA2_256/ECP_256_BP" in found
        assert "ML_KEM" not in found
    assert pair.carries()


@pytest.fixture(scope="module")
def newer_tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    tree = tmp_path_factory.mktemp("newer") / "root"
    yield newer.unpack(tree)
    remove_tree(tree)


NewerPair = Callable[..., Pair]


@pytest.fixture
def newer_pair(newer_tree: Path, tmp_path: Path) -> Iterator[NewerPair]:
    """A pair of which these ends have ML-KEM; each end takes the profile that is given for it."""
    with ExitStack() as stack:

        def start(*ends: str, **profiles: str) -> Pair:
            made = stack.enter_context(started(tmp_path / "shared", newer_ends=ends, tree=newer_tree))
            for end, profile in profiles.items():
                has = "ML_KEM_768" in made.daemons[end].swanctl("--list-algs").stdout
                assert has is (end in ends), f"{end}: FLEET_NEWER_DEBIAN={newer.CODENAME} is the wrong release"
                made.configure(end, connection={"profile": profile})
            return made

        yield start


def test_modern_profile_exchanges_keys_twice(newer_pair: NewerPair) -> None:
    """For the connection and for the child, in new keys of both, too."""
    pair = newer_pair("client", "gateway", client="modern", gateway="modern")
    done = pair.connect()
    assert done.returncode == 0, done.stdout
    assert pair.carries()
    before: dict[Daemon, list[str]] = {daemon: [] for daemon in pair.daemons.values()}
    for what in ((), ("--rekey", "--child", "admin"), ("--rekey", "--ike", "office")):
        if what:
            pair.client.swanctl(*what)
        for daemon, keys in before.items():
            wait_for(partial(_made_twice, daemon, keys), "an association without ML-KEM-768, or no new one")
        before = {daemon: _made(daemon) for daemon in before}
        wait_for(pair.carries, "nothing comes through")


def _made(daemon: Daemon) -> list[str]:
    """The numbers of its associations, each of which has keys of its own."""
    return re.findall(r"#(\d+)", daemon.associations())


def _made_twice(daemon: Daemon, before: list[str]) -> bool:
    """Whether it has one connection and one child, not those from before, and both come of two exchanges of keys."""
    found = daemon.associations()
    return _made(daemon) != before and len(re.findall("ESTABLISHED|INSTALLED", found)) == found.count(TWICE) == 2


@REFUSES
@pytest.mark.parametrize("profile", ["dr", "modern"])
def test_modern_profile_falls_back(newer_pair: NewerPair, refusing: str, profile: str) -> None:
    """While a fleet changes, one end has only the other profile, or only the strongSwan of Debian 13."""
    ends = ENDS if profile == "dr" else [end for end in ENDS if end != refusing]
    assert_no_ml_kem(newer_pair(*ends, **{**dict.fromkeys(ENDS, "modern"), refusing: profile}))


def test_role_offers_ml_kem_to_peers_where_the_daemon_has_it(base: Path, tmp_path: Path) -> None:
    """A tree that says to have a newer strongSwan, and then says no more."""
    layer = tmp_path / "layer"
    status = layer / "upper/var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    known = (base / "var/lib/dpkg/status").read_text("utf-8")
    newer_one = re.sub(r"(?m)(^Package: charon-systemd\n(?:.+\n)*?Version: )\S+", r"\g<1>6.0.2-1", known)
    place = "etc/swanctl/conf.d/10-ml_kem.conf"
    for text, expected in ((newer_one, rendering.render("strongswan", tree="ml_kem")[place]), (known, None)):
        status.write_text(text)
        play = {"roles": ["vauban.fleet.strongswan"]}
        done = play_in_tree(tmp_path, SDK, base, play, layer=layer)
        assert done.returncode == 0, done.stdout + done.stderr
        found = layer / "upper" / place
        assert (found.read_text() if found.is_file() else None) == expected
