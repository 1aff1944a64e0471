# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Renders the configuration tree of each host from the templates of the roles.

The templates are those that the roles lay down themselves, through :mod:`_tree`. What they use, and what of that many
hosts share, is known beforehand, so text that would come out the same is rendered once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import jinja2.meta
import jinja2.nodes
import yaml

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.plugin_utils import _data
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.views.host import ROLES, Views
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.views.shared import SharedDict, SharedList
from ansible_collections.vauban.fleet.plugins.plugin_utils._tree import Source, sources

TEMPLATES = "templates/root"
AUTHORITIES = "etc/swanctl/x509ca"
_ITEM = "item"
_SCALARS = (str, int, float, type(None))


class Content(NamedTuple):
    """The bytes of a file."""

    digest: str
    data: bytes


@dataclass(frozen=True)
class Tree:
    """Everything that a host gets.

    :param files: contents by path, without the leading slash, sorted.
    """

    files: Mapping[str, Content]

    @property
    def digest(self) -> str:
        """Stands for all paths and contents."""
        lines = "".join(f"{path}\0{content.digest}\n" for path, content in self.files.items())
        return hashlib.sha256(lines.encode()).hexdigest()


def environment() -> jinja2.Environment:
    """How templates of roles are read: as Ansible reads them, with nothing of Ansible in reach."""
    return jinja2.Environment(
        trim_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined, autoescape=False
    )


class _Template(NamedTuple):
    """A file of a role.

    :param compiled: None for a file that is no template.
    :param inputs: the variables it uses.
    :param attributes: the attributes of ``item`` it uses; None if it uses ``item`` in another way.
    """

    source: Source
    compiled: jinja2.Template | None
    inputs: tuple[str, ...]
    attributes: tuple[str, ...] | None


class Renderer:
    """Renders trees.

    :param roles: directory of the roles.
    :param authorities: certificates of the site's authorities, by name of file.
    """

    def __init__(self, views: Views, roles: Path, authorities: Mapping[str, bytes]) -> None:
        self._views = views
        self._environment = environment()
        self._constants = {role: _constants(roles / role) for role in ROLES}
        self._templates = {role: [*self._read(roles / role / TEMPLATES)] for role in ROLES}
        self._known: dict[Hashable, Content] = {}
        self._authorities = {
            f"{AUTHORITIES}/{name}": Content(hashlib.sha256(data).hexdigest(), data)
            for name, data in authorities.items()
        }

    def tree(self, name: str) -> Tree:
        """The configuration of a host.

        :raises FleetError: a template of ours fails, which names it.
        """
        files: dict[str, Content] = {}
        for role, variables in self._views.variables(name).items():
            values = {**self._constants[role], **variables}
            for template in self._templates[role]:
                for dest, item in template.source.instances(values.__getitem__):
                    if dest in files:
                        raise FleetError(f"two roles lay down /{dest}", where=str(template.source.path))
                    files[dest] = self._content(template, {**values, _ITEM: item} if item is not None else values)
        return Tree(dict(sorted({**files, **self._authorities}.items())))

    def _read(self, directory: Path) -> Iterator[_Template]:
        for source in sources(directory):
            if not source.template:
                yield _Template(source, None, (), ())
                continue
            text = source.path.read_text("utf-8")
            parsed = self._environment.parse(text)
            used = sorted(jinja2.meta.find_undeclared_variables(parsed) - {_ITEM})
            yield _Template(source, self._environment.from_string(text), tuple(used), _attributes(parsed))

    def _content(self, template: _Template, values: Mapping[str, Any]) -> Content:
        key = _key(template, values)
        if key is None:
            return _render(template, values)
        if key not in self._known:
            self._known[key] = _render(template, values)
        return self._known[key]


def _key(template: _Template, values: Mapping[str, Any]) -> Hashable | None:
    """What the text follows from; None if something in it is this host's alone."""
    item = values.get(_ITEM)
    used = [values.get(name) for name in template.inputs]
    if item is not None:
        if template.attributes is None or isinstance(item, SharedDict) or not isinstance(item, dict):
            used.append(item)
        else:
            used += [item.get(name) for name in template.attributes]
    parts: list[Hashable] = [id(template.source)]
    for value in used:
        if isinstance(value, _SCALARS):
            parts.append(value)
        elif isinstance(value, (SharedDict, SharedList, _Constant)):
            parts.append(id(value))
        else:
            return None
    return tuple(parts)


def _attributes(parsed: jinja2.nodes.Template) -> tuple[str, ...] | None:
    names = [node for node in parsed.find_all(jinja2.nodes.Name) if node.name == _ITEM]
    attributes = [
        node
        for node in parsed.find_all(jinja2.nodes.Getattr)
        if isinstance(node.node, jinja2.nodes.Name) and node.node.name == _ITEM
    ]
    return tuple(sorted({node.attr for node in attributes})) if len(names) == len(attributes) else None


def _render(template: _Template, values: Mapping[str, Any]) -> Content:
    if template.compiled is None:
        data = template.source.path.read_bytes()
    else:
        try:
            data = template.compiled.render(values).encode("utf-8")
        except (jinja2.TemplateError, TypeError, KeyError) as exc:
            raise FleetError(f"cannot be rendered: {exc}", where=str(template.source.path)) from exc
    return Content(hashlib.sha256(data).hexdigest(), data)


class _Constant(list[Any]):
    """A list of a role's own file, which never changes."""


def _constants(role: Path) -> dict[str, Any]:
    """What a role's files give its templates. Values that Ansible would have to template are the site's to give."""
    found: dict[str, Any] = {}
    for name in ("defaults/main.yml", "vars/main.yml"):
        path = role / name
        if path.is_file():
            found |= {key: _constant(value) for key, value in _data.read(path).items() if not _templated(value)}
    return found


def _constant(value: Any) -> Any:
    if isinstance(value, list):
        return _Constant(value)
    return SharedDict(value) if isinstance(value, dict) else value


def _templated(value: Any) -> bool:
    return "{{" in yaml.safe_dump(value)
