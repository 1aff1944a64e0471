# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbook site_pki, and daemons that get their certificates from it.

One site goes through its life: tests follow each other. The gateway makes its key itself, that of the client is made on
the controller. Both are directories of this machine in which a daemon runs.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hosts
import pytest
import yaml
from certificates import pem
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from ipsec import Daemon
from lab import lab
from playing import ansible_playbook
from rendering import render
from sdk import SDK

from ansible_collections.vauban.fleet.plugins.plugin_utils._site import load
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.views.ipsec import Ipsec
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.views.shared import Shared

ROOT = Path(__file__).resolve().parents[2]
SITE: dict[str, Any] = {
    "site": "small",
    "domain": "small.example",
    "places": {
        "here": {
            "number": 1,
            "networks": {"outer": {"ipv4": "192.0.2.0/24"}},
            "gateways": {"hosts": ["gateway"], "addresses": ["192.0.2.2"]},
        }
    },
    "tunnels": {"admin": {"if_id": 1, "pool": {"ipv4": "10.1.0.0/16"}, "peers": ["everyone"]}},
    "zones": {
        "everyone": {"products": ["workstation", "server"]},
        "clocks": {"hosts": ["clock"]},
        "machines": {"products": ["gateway", "workstation", "server"]},
    },
    "services": {"time": {"udp": [123], "tcp": [4460], "user": "_chrony"}},
    "policy": [{"from": ["machines"], "to": ["clocks"], "services": ["time"], "via": "admin"}],
    "time": {"servers": ["clock"], "via": "admin", "service": "time"},
    "hosts": {
        "gateway": {
            "product": "gateway",
            "place": "here",
            "number": 3,
            "interfaces": {"outer": {"mac": "52:54:00:00:00:02"}},
        },
        "client": {"product": "workstation", "place": "here", "number": 101},
        "clock": {
            "product": "server",
            "place": "here",
            "number": 20,
            "interfaces": {"outer": {"mac": "52:54:00:00:00:14"}},
        },
    },
}
SECRETS = {
    "site_pki_root_passphrase": "passphrase of the root",
    "site_pki_issuing_passphrase": "passphrase of the issuing",
    "site_pki_host_passphrase": "passphrase of the hosts",
}
AUTHORITIES = {"ca/issuing.pem", "ca/root.pem", "crl/issuing.crl", "crl/root.crl"}
CERTIFICATES = {"hosts/client.pem", "hosts/clock.pem", "hosts/gateway.pem", "nts/clock.pem"}


class Site:
    """A site, its keys and the daemons of its hosts, all below one directory."""

    def __init__(self, directory: Path, daemons: dict[str, Daemon]) -> None:
        self.directory = directory
        self.inventory = directory / "inventory"
        self.file = self.inventory / "small.site.yml"
        self.pki = self.inventory / "pki"
        self.keys = directory / "keys"
        self.daemons = daemons
        self.printed = ""
        self.inventory.mkdir()
        self.file.write_text(yaml.safe_dump(SITE, sort_keys=False))
        (directory / "secrets.json").write_text(json.dumps(SECRETS))
        inventory = {
            name: {
                "ansible_connection": "local",
                "ansible_host": "localhost",
                "ansible_python_interpreter": sys.executable,
                **({"site_pki_keys": "host"} if name == "gateway" else {}),
                "site_pki_dest": str(daemon.directory),
                "site_pki_reload": False,
            }
            for name, daemon in daemons.items()
        }
        variables = {"fleet_keys_dir": str(self.keys), "site_pki_keys": "controller"}
        (self.inventory / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": inventory, "vars": variables}}))

    def play(self, verb: str, *options: str, secrets: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the playbook; all that it prints is remembered."""
        words = ["-i", str(self.inventory), "vauban.fleet.site_pki", "-e", f"site_pki_verb={verb}", *options]
        words += ["-e", f"@{self.directory / 'secrets.json'}"] if secrets else []
        settings = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_PIPELINING": "1"}
        done = ansible_playbook(self.directory, *words, **settings)
        self.printed += done.stdout + done.stderr
        return done

    def do(self, verb: str, *options: str) -> str:
        """The same, which has to succeed."""
        done = self.play(verb, *options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def fail(self, verb: str, *options: str, secrets: bool = True) -> str:
        """The same, which has to fail with one error that says what to do."""
        done = self.play(verb, *options, secrets=secrets)
        assert done.returncode != 0, done.stdout
        said = done.stdout + done.stderr
        assert said.count("Remedy: ") == 1, said
        assert "Traceback" not in said
        return said

    def files(self) -> dict[str, bytes]:
        """What there is of the PKI."""
        return {str(path.relative_to(self.pki)): path.read_bytes() for path in self.pki.rglob("*") if path.is_file()}

    def follow(self) -> None:
        """Let the daemons load what the site says, as render.yml does, with what the playbook has installed."""

        def change(text: str) -> str:
            # ESP in user space knows neither extended numbers nor trap policies.
            return text.replace("-esn", "-noesn").replace("start_action = trap", "start_action = none")

        load._cache.clear()
        view = Ipsec(load.load(self.file).plan, Shared())
        for name, daemon in self.daemons.items():
            daemon.follow(view.connections(name), change)

    def connect(self) -> subprocess.CompletedProcess[str]:
        return self.daemons["client"].initiate("client", "admin")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("site")
    with lab(directory / "shared") as made:
        made.add_tun_device()
        for name in ("client", "gateway"):
            made.add_namespace(name, ipv6=False)
        made.add_link(("client", "eth0"), ("gateway", "eth0"))
        made.add_address("client", "eth0", "192.0.2.1/24")
        made.add_address("gateway", "eth0", "192.0.2.2/24")
        daemons = {name: Daemon(made, name) for name in ("client", "gateway")}
        try:
            for daemon in daemons.values():
                daemon.start()
                for part in ("x509", "x509ca", "x509crl", "private"):
                    (daemon.directory / "etc/swanctl" / part).mkdir()
            yield Site(directory, daemons)
        finally:
            for daemon in daemons.values():
                daemon.stop()


def test_create_makes_what_is_not_there_and_no_more(site: Site) -> None:
    assert "would change" in site.do("create", "--check", "--diff")
    assert not site.pki.exists()
    site.do("create", "--diff", "-vvv")
    made = site.files()
    assert set(made) == AUTHORITIES | CERTIFICATES
    assert "nothing had to be done" in site.do("create")
    assert site.files() == made


def test_daemons_believe_each_other(site: Site) -> None:
    site.do("install", "--limit", "client")
    site.follow()
    done = site.connect()
    assert done.returncode == 0, done.stdout + site.daemons["gateway"].log()
    assert "ESTABLISHED" in site.daemons["gateway"].associations()


def test_host_whose_key_is_elsewhere(site: Site) -> None:
    """A run that was interrupted before the key took its place goes on; a key that is lost means a new certificate."""
    key = site.daemons["gateway"].directory / "etc/swanctl/private/host.pem"
    before, content = site.files()["hosts/gateway.pem"], key.read_bytes()
    key.rename(key.with_name("host.new.pem"))
    assert "1 task changed something" in site.do("create", "--limit", "gateway")
    assert key.read_bytes() == content
    assert site.files()["hosts/gateway.pem"] == before
    key.unlink()
    site.do("create", "--limit", "gateway")
    assert key.read_bytes() != content
    assert site.files()["hosts/gateway.pem"] != before


def test_keys_are_encrypted_and_shown_to_nobody(site: Site) -> None:
    keys = [path for path in site.keys.rglob("*") if path.is_file()]
    found = {str(path.relative_to(site.keys / "sites/small")) for path in keys}
    assert found == {"hosts/client.key", "hosts/clock.key", "issuing.key", "nts/clock.key", "root.key"}
    for path in keys:
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    for daemon in site.daemons.values():
        (key,) = (daemon.directory / "etc/swanctl/private").iterdir()
        assert (key.stat().st_mode & 0o777, key.stat().st_uid) == (0o600, 200)
    assert "PRIVATE KEY" not in site.printed
    assert not any(secret in site.printed for secret in SECRETS.values())


def test_root_is_asked_for_when_it_has_to_sign(site: Site) -> None:
    root = site.keys / "sites/small/root.key"
    root.rename(site.directory / "offline")
    current = site.pki / "crl/root.crl"
    current.rename(site.directory / "root.crl")
    said = site.fail("crl")
    assert f"{root}: the key of the root authority is not here" in said
    (site.directory / "root.crl").rename(current)


def test_renewed_hosts_come_up_with_new_keys_without_the_root(site: Site) -> None:
    assert not (site.keys / "sites/small/root.key").exists()
    before = site.files()
    key = (site.daemons["gateway"].directory / "etc/swanctl/private/host.pem").read_bytes()
    site.do("renew", "-e", "site_pki_force=true", "--limit", "gateway")
    after = site.files()
    assert after["hosts/gateway.pem"] != before["hosts/gateway.pem"]
    (kept,) = set(after) - set(before)
    assert re.fullmatch(r"replaced/gateway\.[0-9a-f]+\.pem", kept)
    assert after[kept] == before["hosts/gateway.pem"]
    assert (site.daemons["gateway"].directory / "etc/swanctl/private/host.pem").read_bytes() != key
    site.follow()
    done = site.connect()
    assert done.returncode == 0, done.stdout


def test_expiring_fails_when_something_ends(site: Site) -> None:
    said = site.fail("expiring", "-e", "site_pki_days=366")
    assert f"{site.pki}/hosts/client.pem: ends on " in said


def test_revoked_host_is_refused(site: Site) -> None:
    assert "no host is named to be revoked" in site.fail("revoke")
    certificate = site.files()["hosts/client.pem"]
    site.do("revoke", "--limit", "client")
    files = site.files()
    assert "hosts/client.pem" not in files
    assert certificate in [content for name, content in files.items() if name.startswith("revoked/client.")]
    # Nothing was brought to the gateway yet, which still believes it.
    site.do("install", "--limit", "gateway")
    site.follow()
    done = site.connect()
    assert done.returncode != 0, done.stdout
    assert "certificate was revoked" in site.daemons["gateway"].log()


def test_time_is_taken_from_a_server_that_the_site_certifies(site: Site, base: Path, tmp_path: Path) -> None:
    """With the key as an installer would get it, decrypted, and the files as the role installs them."""
    encrypted = (site.keys / "sites/small/nts/clock.key").read_bytes()
    key = serialization.load_pem_private_key(encrypted, SECRETS["site_pki_host_passphrase"].encode())
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    files = site.files()
    with ExitStack() as stack:
        server, asking = (stack.enter_context(hosts.host(name, SDK, [base], tmp_path / name)) for name in ("a", "b"))
        hosts.connect(server, asking, ("10.9.0.1/24", "10.9.0.2/24"))
        server.write("/var/lib/vauban/nts/key.pem", pem(key).decode(), mode="0640", owner="root:_chrony")
        server.write("/var/lib/vauban/nts/certificate.pem", (files["nts/clock.pem"] + files["ca/issuing.pem"]).decode())
        asking.write("/etc/hosts", "127.0.0.1 localhost\n10.9.0.1 clock.small.example\n")
        configuration = render(
            "time_sync",
            time_sync_serve=True,
            time_sync_clients=["10.9.0.0/24"],
            time_sync_nts_certificate="/var/lib/vauban/nts/certificate.pem",
            time_sync_nts_key="/var/lib/vauban/nts/key.pem",
        )
        _run_chrony(stack, server, configuration, tmp_path / "server.log")
        configuration = render(
            "time_sync",
            time_sync_servers=[{"name": "clock.small.example", "nts": True, "key": None}],
            time_sync_nts_authorities=[files["ca/issuing.pem"].decode(), files["ca/root.pem"].decode()],
        )
        _run_chrony(stack, asking, configuration, tmp_path / "client.log")

        def authenticated() -> bool:
            said = asking.ask("chronyc", "-h", "/run/chrony/chronyd.sock", "-n", "-c", "authdata").stdout.split(",")
            return said[1:2] == ["NTS"] and int(said[9]) > 0

        hosts.wait_for(authenticated, "no cookie was given", within=20)


@pytest.mark.extended  # most of a minute, for a branch of what the others try
def test_host_of_a_revoked_authority_is_refused(site: Site) -> None:
    """First where the gateway still has the authority's certificate, then where it has another's.

    There the host shows the certificate that the authority had before it was renewed, which is of the same key.
    """
    root = ("-e", f"site_pki_root_key={site.directory / 'offline'}")
    client, gateway = (site.daemons[name].directory / "etc/swanctl" for name in ("client", "gateway"))
    site.do("create", *root)
    site.do("renew", "-e", "site_pki_days=2000", "--limit", "clock", *root)
    site.do("install", "--limit", "client,gateway")
    site.follow()
    (before,) = [content for name, content in site.files().items() if name.startswith("replaced/issuing_authority.")]
    assert "the key of the root authority is not here" in site.fail("revoke_issuing")
    files = site.files()
    revoked = files["ca/issuing.pem"]
    assert "would change" in site.do("revoke_issuing", *root, "--check", "--diff")
    assert site.files() == files
    said = site.do("revoke_issuing", *root)
    assert "-e site_pki_verb=create" in said
    kept = {content for name, content in site.files().items() if name.startswith("revoked/issuing_authority.")}
    assert kept == {revoked, before}
    assert not (site.keys / "sites/small/issuing.key").exists()
    assert "nothing had to be done" in site.do("revoke_issuing", *root)
    assert "is revoked, and signs nothing any more" in site.fail("revoke", "--limit", "client")
    # Nothing was brought to hosts yet.
    done = site.connect()
    assert done.returncode == 0, done.stdout + site.daemons["gateway"].log()
    site.do("install", "--limit", "gateway")
    site.follow()
    done = site.connect()
    assert done.returncode != 0, done.stdout
    assert "certificate was revoked" in site.daemons["gateway"].log()

    last = {part: (client / part).read_bytes() for part in ("x509/host.pem", "private/host.pem")}
    last["x509ca/issuing.pem"] = before
    site.do("create", *root)
    assert "nothing had to be done" in site.do("create")
    site.do("install", "--limit", "client,gateway")
    assert (gateway / "x509ca/issuing.pem").read_bytes() == (client / "x509ca/issuing.pem").read_bytes() != revoked
    site.follow()
    done = site.connect()
    assert done.returncode == 0, done.stdout + site.daemons["gateway"].log()
    for part, content in last.items():
        (client / part).write_bytes(content)
    site.follow()
    done = site.connect()
    assert done.returncode != 0, done.stdout
    assert "certificate was revoked" in site.daemons["gateway"].log()


def _run_chrony(stack: ExitStack, host: hosts.Host, configuration: dict[str, str], log: Path) -> None:
    for path, content in configuration.items():
        host.write(f"/{path}", content)
    host("install", "-d", "-o", "_chrony", "-g", "_chrony", "-m", "0700", "/run/chrony", "/var/lib/chrony")
    host.write("/etc/chrony/chrony.keys", "", mode="0640", owner="root:_chrony")
    own = "/etc/chrony/chrony.conf"
    host.write(own, f"{configuration[own[1:]]}\nbindcmdaddress /run/chrony/chronyd.sock\n")
    rights = "+net_bind_service"
    who = ["setpriv", "--reuid=_chrony", "--regid=_chrony", "--init-groups", "--no-new-privs"]
    who += [f"--ambient-caps={rights}", f"--inh-caps={rights}", f"--bounding-set=-all,{rights}"]
    stack.enter_context(host.running(*who, "chronyd", "-x", "-U", "-F", "1", "-d", "-f", own, log=log))
