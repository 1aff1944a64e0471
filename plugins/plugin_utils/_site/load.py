# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""The whole way from a site file to its plan."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.plugin_utils import _data
from ansible_collections.vauban.fleet.plugins.plugin_utils._site import certificates, meaning, source
from ansible_collections.vauban.fleet.plugins.plugin_utils._site import plan as address_plan
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.model import Product
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.plan import Plan
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.problems import SiteError, roots

PRODUCTS = _data.FILES / "products.yml"


@dataclass(frozen=True)
class LoadedSite:
    """A site without contradictions.

    :param inputs: digest of all that it was made from.
    :param warnings: what will go wrong later, as lines for people.
    :param refused: what is wrong with its certificates. It stops what would use them, and not what makes new ones.
    """

    source: source.Source
    plan: Plan
    inputs: str
    warnings: tuple[str, ...]
    refused: SiteError | None = None

    @property
    def file(self) -> Path:
        """Path of the site file."""
        return Path(self.source.file)

    def hosts(self, names: Iterable[str]) -> list[str]:
        """Those of its hosts that are named, in its own order.

        :raises FleetError: it has no such host.
        """
        wanted, site = set(names), self.plan.site.site
        if foreign := sorted(wanted - set(self.plan.members)):
            raise FleetError(
                f"{foreign[0]} is no host of site {site}",
                where=str(self.file),
                remedy=f"treat one site at a time: --limit site_{site.replace('-', '_')}",
            )
        return [name for name in self.plan.members if name in wanted]


_cache: dict[tuple[str, int, int], LoadedSite] = {}


def load(file: Path) -> LoadedSite:
    """Read and judge a site file and the certificates beside it.

    :raises SiteError: all that is wrong with it, or with them.
    """
    loaded = read(file)
    if loaded.refused is not None:
        raise loaded.refused
    return loaded


def read(file: Path) -> LoadedSite:
    """Read and judge a site file, whatever its certificates; a file that has not changed since is not read again.

    The inventory plugin fills the cache, and the processes that run tasks inherit it.

    :raises SiteError: all that is wrong with it.
    """
    path = file.resolve()
    try:
        status = os.stat(path)
    except OSError:
        return _load(path)
    key = (str(path), status.st_mtime_ns, status.st_size)
    if key not in _cache:
        _cache.clear()
        _cache[key] = _load(path)
    return _cache[key]


def _load(file: Path) -> LoadedSite:
    found = source.read(file)
    directory = file.parent / found.site.pki.directory
    products = {name: Product.model_validate(part) for name, part in _data.read(PRODUCTS).items()}
    plan, problems = address_plan.make(found.site, products, certificates.authorities(directory), file.parent)
    problems += meaning.problems(plan)
    if problems:
        raise found.error(roots(problems))
    errors, warnings = certificates.judge(plan, directory)
    refused = found.error(errors) if errors else None
    public = {name: hashlib.sha256(content).hexdigest() for name, content in plan.authorities.items()}
    profiles = _digest.of_tree(*plan.profile_directories)
    inputs = _digest.of_data(found.digest, _digest.of_file(PRODUCTS), public, profiles)
    return LoadedSite(found, plan, inputs, tuple(found.lines(warnings)), refused)
