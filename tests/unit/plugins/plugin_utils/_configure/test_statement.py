# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import datetime as dt
import hashlib
from pathlib import Path

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox
from ansible_collections.vauban.fleet.plugins.plugin_utils._configure.statement import (
    Author,
    Configuration,
    next_number,
)
from ansible_collections.vauban.fleet.plugins.plugin_utils._site import archive

NOW = dt.datetime(2026, 11, 23, 9, 15, 30, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("had", "expected"),
    [
        ([], 20261123091530),
        ([0, 20261123080000], 20261123091530),
        ([20261123091530], 20261123091531),  # within the same second
        ([20991231000000, 7], 20991231000001),  # a controller whose clock was ahead
    ],
)
def test_number_is_the_time_and_higher_than_all_before(had: list[int], expected: int) -> None:
    assert next_number(NOW, had) == expected


def test_number_is_that_of_the_same_moment_everywhere() -> None:
    assert next_number(NOW.astimezone(dt.timezone(dt.timedelta(hours=9))), []) == 20261123091530


def test_contents_are_named_as_the_machine_names_them(tmp_path: Path) -> None:
    tree = tmp_path / "tree/etc"
    tree.mkdir(parents=True)
    (tree / "hostname").write_text("files1\n")
    (tree / "link").symlink_to("hostname")
    (tree / "program").write_text("#!/bin/sh\n")
    (tree / "program").chmod(0o755)
    archive.write(tmp_path / "tree", tmp_path / "archive")
    read = Configuration.read(tmp_path / "archive")
    digests = {name: hashlib.sha256((tree / name).read_bytes()).hexdigest() for name in ("hostname", "program")}
    assert read.lines() == {
        f"{digests['hostname']}  etc/hostname",
        "link:hostname  etc/link",
        f"{digests['program']}  etc/program",
        "executable  etc/program",
    }
    assert read.texts() == {"etc/hostname": "files1\n", "etc/link": "-> hostname\n", "etc/program": "#!/bin/sh\n"}


def test_product_without_the_key_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(FleetError) as caught:
        Author("server", tmp_path / "server", Sandbox(tmp_path, tmp_path))
    assert caught.value.where == str(tmp_path / "server/configuration.crt")
    assert "run playbook pki again" in str(caught.value.remedy)
