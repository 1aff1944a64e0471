# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from configparser import ConfigParser

from ansible_collections.vauban.fleet.plugins.module_utils._image import bundle


def test_manifest_names_one_image_and_how_to_open_the_bundle() -> None:
    unsigned = {"format": "verity", "verity-hash": "a" * 64, "verity-salt": "b" * 64, "verity-size": "4096"}
    text = bundle.manifest_text("gateway", "0.1.0", unsigned, core_size=123, core_sha256="c" * 64)
    parser = ConfigParser()
    parser.read_string(text)
    assert {name: dict(parser[name]) for name in parser.sections()} == {
        "update": {"compatible": "gateway", "version": "0.1.0"},
        "bundle": unsigned,
        "image.core": {"filename": "core.img", "size": "123", "sha256": "c" * 64},
    }
