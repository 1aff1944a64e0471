# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page for people."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from ansible_collections.vauban.fleet.plugins.plugin_utils._site import report

from .conftest import BASE, Load, edited


class Tags(HTMLParser):
    """Counts what is opened and never closed, and collects what would be fetched."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_whole_and_fetches_nothing(load_site: Load) -> None:
    plan = load_site(BASE).plan
    tags = Tags(report.page(plan, ["soon"], "<svg></svg>"))
    assert tags.open == []
    assert tags.fetched == []


def test_every_rule_is_in_the_matrix(load_site: Load) -> None:
    plan = load_site(BASE).plan
    rows = [
        re.findall("<td[^>]*>(.*?)</td>", row) for row in report.page(plan, [], "").splitlines() if "<tr><td>" in row
    ]
    ways = ["admin", "audit", "work", "outer"]
    for rule in plan.site.policy:
        for source in rule.sources:
            for destination in rule.destinations:
                (row,) = [row for row in rows if row[:2] == [source, destination] and len(row) == 2 + len(ways)]
                cell = row[2 + ways.index(rule.via)]
                assert all(f"<b>{service}</b>" in cell for service in rule.services)


def test_what_is_in_clear_and_what_is_raw_stands_out(load_site: Load) -> None:
    page = report.page(load_site(BASE).plan, [], "")
    assert '<td class="clear"><b>time</b>' in page
    assert '<td class="raw"><code>tcp dport 9 drop</code></td>' in page


def test_texts_of_a_site_are_no_markup(load_site: Load) -> None:
    plan = load_site(edited({"raw.0.reason": "<script>alert(1)</script>", "policy.0.comment": '"><b>'}, [])).plan
    page = report.page(plan, [], "")
    assert "<script>" not in page
    assert Tags(page).open == []
