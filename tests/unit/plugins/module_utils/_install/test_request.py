# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install.installation import Request

KEYS = ("disk", "esp_size", "swap_size", "state_size", "core_size")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def test_only_the_disk_is_needed() -> None:
    request = Request.parse('{"disk": {"serial": "S5GX"}}', "install.json")
    assert request == Request(disk={"serial": "S5GX"})
    assert request.state_size is None


def test_everything_can_be_said() -> None:
    data = {"disk": {"path": "/dev/sda"}, "esp_size": 1, "swap_size": 2, "state_size": 3, "core_size": 4}
    assert Request.parse(json.dumps(data), "install.json") == Request(**data)  # type: ignore[arg-type]


@given(st.text() | JSON.map(json.dumps))
def test_arbitrary_text_is_refused(text: str) -> None:
    with pytest.raises(FleetError):
        Request.parse(text, "install.json")


@given(st.dictionaries(st.sampled_from(KEYS), JSON))
def test_sizes_are_positive_numbers_whatever_is_asked_for(data: dict[str, Any]) -> None:
    try:
        request = Request.parse(json.dumps(data), "install.json")
    except FleetError:
        return
    assert isinstance(request.disk, dict)
    for size in (request.esp_size, request.swap_size, request.core_size, request.state_size or 1):
        assert isinstance(size, int)
        assert size > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "install.json: not JSON"),
        ("[" * 100_000, "install.json: not JSON"),
        ("[]", "install.json: the top level must be an object"),
        ("{}", "install.json: disk: missing\nRemedy: say which disk"),
        ('{"disk": "sda"}', "install.json: disk: wrong type: 'sda'"),
        ('{"disk": {}, "size": 5}', "install.json: size: unknown key\nRemedy: known keys: disk, esp_size"),
        ('{"disk": {}, "esp_size": "1G"}', "install.json: esp_size: wrong type: '1G'"),
        ('{"disk": {}, "esp_size": 1.5}', "install.json: esp_size: wrong type: 1.5"),
        ('{"disk": {}, "esp_size": null}', "install.json: esp_size: wrong type: None"),
        ('{"disk": {}, "swap_size": true}', "install.json: swap_size: wrong type: True"),
        ('{"disk": {}, "core_size": 0}', "install.json: core_size: must be a positive number of bytes"),
        ('{"disk": {}, "state_size": -1}', "install.json: state_size: must be a positive number of bytes"),
    ],
)
def test_message_names_file_and_key(text: str, message: str) -> None:
    with pytest.raises(FleetError) as caught:
        Request.parse(text, "install.json")
    assert message in str(caught.value)
