# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""What is made from the model for people and editors: ``docs/site-model.md`` and the JSON Schema.

``python -m ansible_collections.vauban.fleet.plugins.plugin_utils._site.reference`` writes both (`make docs`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.plugin_utils._site.model import Site
from ansible_collections.vauban.fleet.plugins.plugin_utils._step import COLLECTION

SCHEMA = COLLECTION / "files/schema/site.json"
PAGE = COLLECTION / "docs/site-model.md"
_INTRODUCTION = """\
# Site model

A site is one file, `NAME.site.yml`, in an Ansible inventory; `inventories/example_site` is one. Everything else
that an inventory can hold (`group_vars`, more hosts) works beside it. `ansible-inventory -i DIRECTORY --graph`
reads it and says all that is wrong with it, each problem with its line and what to do; `ansible-playbook
vauban.fleet.render -i DIRECTORY` renders and checks the configuration of every host.

Editors complete and check the file with its JSON Schema: its first line is `# yaml-language-server:
$schema=PATH/files/schema/site.json`.

**Addresses follow from numbers.** A place has a number, which picks its slice of each tunnel's pool; a host has
a number, which picks its address there and in the networks of its place. Numbers stand in the file, so a new
host or place never moves another. An address can be given in place of the one that follows.

**Nothing is allowed but what `policy` allows.** A rule says which zones may reach which others, by which
services, through which tunnel. Each host gets the rules that concern it, on the sending side with the user that
may send, on the receiving side, and on the gateways between.

The rest of this page is made from the model (`make docs`). Keys without a default are required.
"""


def schema() -> str:
    """The JSON Schema, as text."""
    found = Site.model_json_schema(by_alias=True)
    found["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(_plain(found), indent=2, sort_keys=True) + "\n"


def page() -> str:
    """The reference, as Markdown."""
    found = Site.model_json_schema(by_alias=True)
    parts = [_INTRODUCTION, *_part("The site", found, found)]
    for name in _order(found, found, []):
        parts += _part(name, found["$defs"][name], found)
    return "\n".join(parts)


def _plain(node: Any) -> Any:
    """Descriptions are written for this page; editors show plain text."""
    if isinstance(node, dict):
        return {
            key: _text(value) if key == "description" and isinstance(value, str) else _plain(value)
            for key, value in node.items()
        }
    return [_plain(item) for item in node] if isinstance(node, list) else node


def _text(value: str) -> str:
    return " ".join(value.replace("``", "`").split())


def _order(node: Any, whole: Any, known: list[str]) -> list[str]:
    """The parts in the order in which a reader meets them."""
    for name in re.findall(r"'#/\$defs/(\w+)'", repr(node.get("properties", node))):
        if name not in known:
            known.append(name)
            _order(whole["$defs"][name], whole, known)
    return known


def _part(name: str, part: Any, whole: Any) -> Iterator[str]:
    yield f"\n## {name}\n"
    yield f"{_text(part.get('description', ''))}\n"
    yield "| key | type | default | meaning |\n|---|---|---|---|"
    required = set(part.get("required", ()))
    for key, value in part.get("properties", {}).items():
        default = (
            "" if key in required else f"`{json.dumps(value['default'])}`" if value.get("default") is not None else "-"
        )
        referred = whole["$defs"].get(value.get("$ref", "").rpartition("/")[2], {})
        meaning = _text(value.get("description") or referred.get("description", ""))
        yield f"| `{key}` | {_type(value)} | {default} | {meaning} |"


def _type(value: Any) -> str:
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{str(name).lower()})"
    if "anyOf" in value:
        kinds = [_type(item) for item in value["anyOf"] if item.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in value or "const" in value:
        return ", ".join(f"`{item}`" for item in value.get("enum", [value.get("const")]))
    if value.get("type") == "array":
        return f"list of {_type(value['items'])}"
    if value.get("type") == "object":
        named = list(value.get("patternProperties", {}).values()) or [value.get("additionalProperties", {})]
        return f"mapping of {_type(named[0])}"
    words = {"boolean": "on or off", "integer": _bounds(value), "number": "number"}
    return words.get(value.get("type", ""), str(value.get("format", "text")))


def _bounds(value: Any) -> str:
    low, high = value.get("minimum"), value.get("maximum")
    return f"number {low} to {high}" if low is not None and high is not None else "number"


def write(schema_file: Path = SCHEMA, page_file: Path = PAGE) -> None:
    """Write both files."""
    schema_file.write_text(schema(), "utf-8")
    page_file.write_text(page(), "utf-8")


if __name__ == "__main__":
    write()
