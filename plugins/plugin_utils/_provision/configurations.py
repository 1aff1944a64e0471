# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""The configurations of hosts, as the provisioning server offers them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.plugin_utils._site import archive
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.pki import files, state

_LISTS = "etc/swanctl/x509crl"  # where role site_pki puts them


def pack(trees: Path, hosts: Iterable[str], pki: Path | None, dest: Path, *, partial: bool = False) -> dict[str, str]:
    """Pack the rendered configuration of each host, with the revocation lists that count now.

    Without a list that has not ended no host believes another, so its first tunnel would not come up.

    :param trees: directory of the site's rendered trees.
    :param pki: directory of the site's certificates; None if it has no tunnel.
    :param dest: directory for the archives; the name of each is its SHA-256.
    :param partial: leave out hosts that are not rendered, which check mode does not do.
    :returns: SHA-256 by host.
    :raises FleetError: a host is not rendered.
    """
    paths = [files.list_path(pki, name) for name in (files.ROOT, files.ISSUING)] if pki else []
    lists = {f"{_LISTS}/{path.name}": path.read_bytes() for path in paths}
    found: dict[str, str] = {}
    known: dict[Path, str] = {}
    for name in hosts:
        tree = (trees / name).resolve()
        if not (tree / "etc").is_dir():
            if partial:
                continue
            raise FleetError("the host is not rendered", where=str(trees / name), remedy="run playbook render")
        if tree not in known:
            new = dest / "new"
            known[tree] = archive.write(tree, new, lists)
            new.rename(dest / known[tree])
        found[name] = known[tree]
    return found


def check_lists(pki: Path) -> None:
    """Whether the revocation lists are there, and count.

    :raises FleetError: one does not.
    """
    for part in state.revocation_lists(pki):
        if part.state not in (state.VALID, state.ENDING):
            said = part.reason or ("is not there" if part.state == state.ABSENT else f"has {part.state}")
            raise FleetError(said, where=str(part.path), remedy="sign it anew: playbook site_pki, verb crl")


def bundle(archives: Mapping[str, Path], dest: Path) -> None:
    """Many archives as one file, to be brought to the server at once."""
    with tarfile.open(dest, "w") as packed:
        for name, path in sorted(archives.items()):
            entry = tarfile.TarInfo(name)
            content = path.read_bytes()
            entry.size = len(content)
            packed.addfile(entry, io.BytesIO(content))
