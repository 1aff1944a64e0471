# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""The page that shows people what a site means: who may talk to whom, and where the wires go.

It holds everything it shows, so that it can be read on a machine without a network.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from html import escape

from ansible_collections.vauban.fleet.plugins.plugin_utils._site.checks.policy import ends
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.model import OUTER, Rule, Service
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.plan import Plan

_STYLE = """
body { font: 15px/1.5 sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 }
th, td { border: 1px solid #bbb; padding: .3em .6em; text-align: left; vertical-align: top }
th { background: #eee } td.clear, li.warning { background: #fdd } td.raw { background: #ffd } code { font-size: 13px }
svg { max-width: 100%; height: auto }
"""


def page(plan: Plan, warnings: Iterable[str], drawing: str) -> str:
    """The whole page, HTML.

    :param drawing: SVG made of :func:`graph`.
    """
    parts = [
        f"<h1>Site {escape(plan.site.site)}</h1>",
        f"<p>{len(plan.members)} hosts, {len(plan.site.tunnels)} tunnels, IPv6 {'on' if plan.site.ipv6 else 'refused'},"
        f" IPsec profile {plan.site.ipsec.profile}. Everything that no rule below allows is refused.</p>",
        *_warnings(warnings),
        "<h2>Who may reach what</h2>",
        *_matrix(plan),
        "<h2>Zones</h2>",
        *_zones(plan),
        "<h2>Tunnels</h2>",
        *_tunnels(plan),
        *_raw(plan),
        "<h2>Networks</h2>",
        drawing,
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(plan.site.site)}</title>'
        f"<style>{_STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def graph(plan: Plan) -> str:
    """Places, their networks and the tunnels, in the language of dot(1)."""
    lines = [
        "graph site {",
        'rankdir=LR; node [fontname="sans-serif", fontsize=11]; edge [fontname="sans-serif", fontsize=9];',
    ]
    counts = Counter((member.host.place, member.host.product) for member in plan.members.values())
    for place, part in plan.site.places.items():
        lines.append(f"subgraph {_quoted('cluster_' + place)} {{ label={_quoted(place)}; style=rounded;")
        for network, inner in part.networks.items():
            ranges = "\\n".join(str(found) for found in inner.networks)
            style = "style=filled, fillcolor=palegreen" if inner.tunnel else "shape=box"
            lines.append(
                f"{_quoted(f'{place}/{network}')} [label={_quoted(network + chr(92) + 'n' + ranges)}, {style}];"
            )
        for product in sorted({product for where, product in counts if where == place}):
            label = _quoted(f"{counts[place, product]} {product}")
            lines.append(f"{_quoted(f'{place}:{product}')} [label={label}, shape=plaintext];")
            if product != "gateway" and plan.site.tunnels:
                lines.append(f"{_quoted(f'{place}:{product}')} -- {_quoted(f'{place}:gateway')} [style=dashed];")
        for network, inner in part.networks.items():
            if inner.tunnel:
                edge = f"{_quoted(f'{place}:gateway')} -- {_quoted(f'{place}/{network}')}"
                lines.append(f"{edge} [label={_quoted(inner.tunnel)}];")
        lines.append("}")
    # Each pair of places is connected. Nobody reads a mesh, and dot finds no way through a large one.
    with_gateways = [place for place, part in plan.site.places.items() if part.gateways is not None]
    if len(with_gateways) > 1:
        lines.append(f"{_quoted(':mesh')} [label={_quoted('IPsec, each with each')}, shape=ellipse];")
        lines += [f"{_quoted(f'{place}:gateway')} -- {_quoted(':mesh')};" for place in with_gateways]
    return "\n".join([*lines, "}"])


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '"'


def _warnings(warnings: Iterable[str]) -> Iterator[str]:
    lines = [f'<li class="warning">{escape(line)}</li>' for line in warnings]
    if lines:
        yield "<h2>Soon to be dealt with</h2><ul>" + "".join(lines) + "</ul>"


def _matrix(plan: Plan) -> Iterator[str]:
    """One row for each pair of zones, one column for each way."""
    ways = [via for via in (*plan.site.tunnels, OUTER) if any(rule.via == via for rule in plan.site.policy)]
    cells: dict[tuple[str, str], dict[str, list[str]]] = {}
    for rule in plan.site.policy:
        for source in rule.sources:
            for destination in rule.destinations:
                cell = cells.setdefault((source, destination), {}).setdefault(rule.via, [])
                cell += [_service(plan, name, rule) for name in rule.services]
    yield "<table><tr><th>from</th><th>to</th>"
    yield "".join(f"<th>{escape(via)}{' (in clear)' if via == OUTER else ''}</th>" for via in ways) + "</tr>"
    for (source, destination), found in cells.items():
        row = f"<tr><td>{escape(source)}</td><td>{escape(destination)}</td>"
        for via in ways:
            style = ' class="clear"' if via == OUTER and via in found else ""
            row += f"<td{style}>{'<br>'.join(found.get(via, []))}</td>"
        yield row + "</tr>"
    yield "</table>"


def _service(plan: Plan, name: str, rule: Rule) -> str:
    text = f"<b>{escape(name)}</b> {escape(_ports(plan.site.services[name]))}"
    return f'<span title="{escape(rule.comment)}">{text}</span>' if rule.comment else text


def _ports(service: Service) -> str:
    parts = [
        f"{key}/{','.join(map(str, ports))}" for key, ports in (("tcp", service.tcp), ("udp", service.udp)) if ports
    ]
    parts += ["echo"] if service.icmp else []
    return " ".join(parts) + (f", user {service.user}" if service.user else "")


def _zones(plan: Plan) -> Iterator[str]:
    yield "<table><tr><th>zone</th><th>hosts</th><th>networks</th></tr>"
    for name, zone in plan.zones.items():
        hosts = sorted(zone.hosts)
        some = ", ".join(hosts[:12]) + (f" and {len(hosts) - 12} more" if len(hosts) > 12 else "")
        networks = "<br>".join(escape(str(network)) for network in zone.networks)
        yield f"<tr><td>{escape(name)}</td><td>{len(hosts)}: {escape(some)}</td><td>{networks}</td></tr>"
    yield "</table>"


def _tunnels(plan: Plan) -> Iterator[str]:
    yield "<table><tr><th>tunnel</th><th>if_id</th><th>pool</th><th>hosts</th><th>reaches</th><th>members</th></tr>"
    for name, part in plan.site.tunnels.items():
        pool = "<br>".join(str(found) for found in part.pool.networks)
        reaches = "<br>".join(str(found) for found in plan.selectors(name))
        members = "<br>".join(map(escape, part.members))
        yield (
            f"<tr><td>{escape(name)}</td><td>{part.if_id}</td><td>{pool}</td><td>{len(plan.tunnel_hosts[name])}</td>"
            f"<td>{reaches}</td><td>{members}</td></tr>"
        )
    yield "</table>"


def _raw(plan: Plan) -> Iterator[str]:
    if not plan.site.raw:
        return
    yield "<h2>Rules outside the model</h2><table><tr><th>zone</th><th>ruleset</th><th>rule</th><th>reason</th></tr>"
    for raw in plan.site.raw:
        hosts = (
            len(ends(plan, raw.ruleset, raw.zone)[0])
            if raw.ruleset in plan.site.tunnels
            else len(plan.zones[raw.zone].hosts)
        )
        yield (
            f"<tr><td>{escape(raw.zone)} ({hosts} hosts)</td><td>{escape(raw.ruleset)}, {raw.chain}</td>"
            f'<td class="raw"><code>{escape(raw.rule)}</code></td><td>{escape(raw.reason)}</td></tr>'
        )
    yield "</table>"
