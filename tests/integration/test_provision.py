# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbook provision, with the real enrolment service and machines that do what an installer does."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography import x509
from provisioned import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(tmp_path, stack)


def test_machine_becomes_its_host(site: Site) -> None:
    machine = site.machine("one", after=8)
    machine.start()
    done = site.play("provision", "--limit", "one")
    assert done.returncode == 0, done.stdout + done.stderr
    machine.done()
    assert site.report()["hosts"]["one"]["state"] == "installed"
    assert machine.installation["disk"] == {"transport": "nvme"}
    leaf, issuing, _root = machine.certificates()
    leaf.verify_directly_issued_by(site.issuing.certificate)
    assert issuing == site.issuing.certificate
    assert leaf == x509.load_pem_x509_certificate((site.pki / "hosts/one.pem").read_bytes())
    with tarfile.open(fileobj=io.BytesIO(machine.configuration)) as archive:
        names = archive.getnames()
    assert {"etc/swanctl/x509ca/issuing.pem", "etc/swanctl/x509crl/issuing.crl"} <= set(names)
