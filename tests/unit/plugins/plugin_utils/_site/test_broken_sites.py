# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sites that are wrong: each gives exactly the errors that its writer needs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.vauban.fleet.plugins.plugin_utils._data import FILES
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.load import load
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.problems import SiteError
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.views.host import Views

from .conftest import BASE, SMALL, Load, edited

CASES: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "broken_sites.yml").read_text())


def lines(error: pytest.ExceptionInfo[SiteError]) -> list[str]:
    """The errors without file and line, and without where the collection lies; every one has a remedy."""
    found = str(error.value).replace(str(FILES), "FILES").splitlines()
    assert all(". Remedy: " in line for line in found)
    return [re.sub(r"^\S+\.site\.yml(:\d+)?: ", "", line) for line in found]


def test_small_site_is_right() -> None:
    assert len(load(SMALL).plan.members) == 9


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["what"])
def test_broken_site(load_site: Load, case: dict[str, Any]) -> None:
    with pytest.raises(SiteError) as error:
        load_site(edited(case.get("set", {}), case.get("drop", [])))
    assert lines(error) == case["errors"]


def test_all_errors_are_said_and_each_with_its_line(load_site: Load, site_file: Path) -> None:
    text = (
        SMALL.read_text()
        .replace("if_id: 2", "if_id: 1")
        .replace("{product: workstation, place: south", "{product: workstation, place: west")
    )
    with pytest.raises(SiteError) as error:
        load_site(text)
    assert str(error.value).startswith(f"{site_file}:")
    numbers = [int(line.split(":")[1]) for line in str(error.value).splitlines()]
    shown = [text.splitlines()[number - 1].strip() for number in numbers]
    assert shown == ["if_id: 1", "south-laptop: {product: workstation, place: west, number: 101}"]
    assert numbers[0] == text.splitlines().index("  audit:") + 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the top level is no mapping"),
        ("[1, 2]", "the top level is no mapping"),
        ("site: [", "not YAML: "),
        ("site: a\n\tdomain: b", "not YAML: "),
        ("site: a\nsite: b", "not YAML: 'site' is given twice"),
        ("hosts:\n  a: {product: server}\n  a: {product: server}", "not YAML: 'a' is given twice"),
        ("site: !!python/object:os.system x", "not YAML: could not determine a constructor"),
        ("site: 2026-13-45", "not YAML: month must be in 1..12"),
        ("a: &a [*a]", "is missing"),
        ("site: " + "[" * 3000, "not YAML: "),
        ("? [a, b]\n: c", "not YAML: "),
    ],
)
def test_what_is_no_site_at_all(load_site: Load, text: str, said: str) -> None:
    with pytest.raises(SiteError) as error:
        load_site(text)
    assert said in "\n".join(lines(error))


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SiteError) as error:
        load(tmp_path / "none.site.yml")
    assert lines(error) == ["No such file or directory. Remedy: name a site file that can be read"]
    (tmp_path / "latin.site.yml").write_bytes(b"site: caf\xe9")
    with pytest.raises(SiteError) as error:
        load(tmp_path / "latin.site.yml")
    assert lines(error) == ["byte 9 is not UTF-8. Remedy: save the file as UTF-8"]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.sampled_from(
        ["", "north", "outer", "10.1.0.0/16", "::/0", "fd00::/8", "192.0.2.1", "*", "[1:3]", "a-[1:2][1:9]"]
    )
    | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def paths(node: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path of a site."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [found for key, value in items for found in ((*above, key), *paths(value, (*above, key)))]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.tuples(st.sampled_from(paths(BASE)), VALUES), min_size=1, max_size=4))
def test_whatever_is_written_there_is_no_traceback(load_site: Load, edits: list[tuple[tuple[Any, ...], Any]]) -> None:
    """Nor does a site that passes fail later, when the variables of its hosts are computed."""
    site = edited({}, [])
    for path, value in edits:
        node: Any = site
        for key in path[:-1]:
            node = node[key] if isinstance(node, dict) and key in node else None
            if node is None:
                break
        if isinstance(node, dict):
            node[path[-1]] = value
    try:
        loaded = load_site(site)
    except SiteError as exc:
        said = str(exc)
    else:
        views = Views(loaded.plan)
        for name in loaded.plan.members:
            views.variables(name)
        return
    assert all(". Remedy: " in line for line in said.splitlines())
