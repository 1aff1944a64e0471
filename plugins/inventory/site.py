# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: site
short_description: Hosts of a site, from its model
version_added: 0.1.0
author: Vauban maintainers (@vauban)
description:
  - Reads a file C(*.site.yml), which describes a site as C(docs/site-model.md) says, and judges it whole. A site with
    any contradiction ends the run with all of its errors, each with file, line, key, value and remedy.
  - Every host is in the groups C(fleet), C(site_SITE), C(place_PLACE), C(product_PRODUCT) and, for each of its zones,
    C(zone_ZONE); a character that a group's name cannot have becomes C(_).
  - A host has the variables C(fleet_site_file), C(fleet_place), C(fleet_product), C(fleet_addresses), its addresses in
    tunnels, and C(ansible_host), the one in the tunnel of the admin role. With C(provisioning) of the site there are
    C(fleet_provisioning_url), its server, and of a host that is installed over the network C(fleet_macs), and
    C(fleet_bmc) and C(fleet_bmc_system), its power controller if it has one. All else comes from C(group_vars) and
    C(host_vars) beside the file, as with any inventory.
options:
  plugin:
    description: Not needed where C(enable_plugins) of C(ansible.cfg) names this plugin first. Otherwise it lets
      P(ansible.builtin.auto#inventory) find the plugin, at the price of reading the file once more, slowly.
    type: str
    choices: [vauban.fleet.site]
requirements:
  - pydantic >= 2
  - cryptography
"""

EXAMPLES = r"""
# ansible.cfg
# [inventory]
# enable_plugins = vauban.fleet.site, yaml
# any_unparsed_is_failed = true

# office.site.yml
site: office
domain: office.example
places:
  paris: {number: 1}
hosts:
  paris-laptop-[01:10]: {product: workstation, place: paris, number: 101}
"""

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin

from ansible_collections.vauban.fleet.plugins.plugin_utils._pydantic import PYDANTIC_ERROR
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.certificates import CRYPTOGRAPHY_ERROR
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.load import LoadedSite, read
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.problems import SiteError

SHOWN = 50  # problems; more are rarely of another kind
PARSER_ERROR = 4  # as Ansible's own commands end when an inventory cannot be parsed


class InventoryModule(BaseInventoryPlugin):
    """Turns the site model into hosts and groups."""

    NAME = "vauban.fleet.site"

    def verify_file(self, path: str) -> bool:
        """Only site files, by their name."""
        return path.endswith((".site.yml", ".site.yaml")) and bool(super().verify_file(path))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        """Judge the site, then add its hosts."""
        super().parse(inventory, loader, path, cache)
        for missing in (PYDANTIC_ERROR, CRYPTOGRAPHY_ERROR):
            if missing is not None:
                raise AnsibleParserError(f"{missing}. Remedy: install pydantic and cryptography for Ansible's Python")
        try:
            loaded = read(Path(path))
        except SiteError as exc:
            self._stop(exc)
        for warning in loaded.warnings:
            self.display.warning(warning)
        if loaded.refused is not None:
            # Only a warning: playbook site_pki, which makes new ones, needs an inventory.
            for line in str(loaded.refused).splitlines()[:SHOWN]:
                self.display.warning(line)
        self._add(loaded)

    def _stop(self, error: SiteError) -> None:
        """End the run. An exception would only make Ansible try its next plugin, and that for YAML takes anything."""
        count = len(error.problems)
        for line in str(error).splitlines()[:SHOWN]:
            self.display.error(line, wrap_text=False)
        more = f", of which {SHOWN} are shown" if count > SHOWN else ""
        self.display.error(f"{error.file}: {count} problem{'s' if count > 1 else ''}{more}", wrap_text=False)
        raise SystemExit(PARSER_ERROR)

    def _add(self, loaded: LoadedSite) -> None:
        plan, inventory = loaded.plan, self.inventory
        access = plan.site.access
        via = access.admin.via if access is not None else None
        reached = plan.tunnel_hosts[via] if via is not None else frozenset()
        groups: dict[str, str] = {}

        def group(kind: str, name: str) -> str:
            key = f"{kind}_{name}"
            if key not in groups:
                groups[key] = inventory.add_group(self._sanitize_group_name(key))
            return groups[key]

        fleet = inventory.add_group("fleet")
        site = group("site", plan.site.site)
        file = str(loaded.file)
        for name, member in plan.members.items():
            inventory.add_host(name, group=fleet)
            inventory.add_child(site, name)
            inventory.add_child(group("place", member.host.place), name)
            inventory.add_child(group("product", member.host.product), name)
            inventory.set_variable(name, "fleet_site_file", file)
            inventory.set_variable(name, "fleet_place", member.host.place)
            inventory.set_variable(name, "fleet_product", member.host.product)
            if plan.site.provisioning is not None:
                inventory.set_variable(name, "fleet_provisioning_url", plan.site.provisioning.server)
            machine = member.host.machine
            if machine is not None:
                known = [*machine.macs, *(part.mac for part in member.host.interfaces.values() if part.mac is not None)]
                inventory.set_variable(name, "fleet_macs", list(dict.fromkeys(known)))
            if machine is not None and machine.bmc is not None:
                inventory.set_variable(name, "fleet_bmc", machine.bmc.address)
                inventory.set_variable(name, "fleet_bmc_system", machine.bmc.system or "")
            inner = [str(each) for tunnel in plan.tunnels_of.get(name, ()) for each in plan.inner(name, tunnel)]
            inventory.set_variable(name, "fleet_addresses", inner)
            if via is not None and name in reached:
                inventory.set_variable(name, "ansible_host", str(plan.inner(name, via)[0]))
        for zone, resolved in plan.zones.items():
            for name in sorted(resolved.hosts):
                inventory.add_child(group("zone", zone), name)
