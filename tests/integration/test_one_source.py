# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A role that Ansible applies and the renderer that Ansible never sees give a host the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.vauban.fleet.plugins.plugin_utils._site.load import load
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.render import AUTHORITIES, Renderer
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.views.host import ROLES, Views
from ansible_collections.vauban.fleet.plugins.plugin_utils._step import COLLECTION

from .conftest import play_roles

EXAMPLE = Path(__file__).resolve().parents[2] / "inventories/example_site/example.site.yml"


@pytest.mark.parametrize("host", ["paris-gw1", "paris-logs1", "lyon-laptop-03"])
def test_roles_and_renderer_agree(base: Path, tmp_path: Path, host: str) -> None:
    plan = load(EXAMPLE).plan
    views = Views(plan).variables(host)
    # Only one in a pair shares an address.
    assert set(views) == set(ROLES) - (set() if host in plan.gateways else {"gateway_pair"})
    variables = {name: value for each in views.values() for name, value in each.items()}
    # The role confines and judges all units of the image, too; a host that the site says nothing about is spared that.
    roles = [name for name in views if name != "confinement" or variables["confinement_dropins"]]
    assert ("confinement" in roles) == (host == "paris-logs1")
    # Of the image, and so none of what is compared.
    (tmp_path / "key.pem").write_text("-----BEGIN PUBLIC KEY-----\n")
    images = ("update_client_policy_key", "signatures_root", "signatures_revocations")
    variables |= dict.fromkeys(images, str(tmp_path / "key.pem"))
    done = play_roles(tmp_path, base, *roles, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    rendered = Renderer(Views(plan), COLLECTION / "roles", plan.authorities).tree(host).files
    assert len(rendered) > 40
    for path, content in rendered.items():
        if not path.startswith(AUTHORITIES):
            assert (tmp_path / "layer/upper" / path).read_bytes() == content.data, path
    passwd = (tmp_path / "layer/upper/etc/passwd").read_text()
    missing = plan.users[plan.members[host].host.product] - {line.split(":")[0] for line in passwd.splitlines()}
    assert not missing, "files/products.yml names users that no role makes"
