# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an installer takes from the addresses on its medium, which anybody may have written."""

from __future__ import annotations

import configparser
import contextlib
from ipaddress import IPv4Address, IPv4Interface

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install import addresses
from ansible_collections.vauban.fleet.plugins.module_utils._install.addresses import Entry

MAC = "52:54:00:00:00:14"
ONE = Entry(MAC, IPv4Interface("10.9.0.20/24"), IPv4Address("10.9.0.1"))
TWO = Entry("52:54:00:00:00:15", IPv4Interface("10.9.0.21/24"))
# What DHCP can bring about, as far as the installer listens to it; the rest is fixed.
SECTIONS = {
    "Match": {"MACAddress", "Kind", "Type"},
    "Network": {"Address", "Gateway", "DHCP", "IPv6AcceptRA", "LinkLocalAddressing", "LLDP"},
}


def test_what_is_written_is_read() -> None:
    text = addresses.render({"files": [ONE], "apps": [TWO], "none": []})
    assert addresses.parse(text.encode()) == [TWO, ONE]
    assert "# files\n" in text


@pytest.mark.parametrize(
    "line",
    [
        f"{MAC} 10.9.0.20/24 10.9.0.1",
        f"  {MAC}\t10.9.0.20/24   10.9.0.1\r",
        "52-54-00-00-00-14 10.9.0.20/24 10.9.0.1 # of an editor and a label",
    ],
)
def test_line_that_somebody_has_typed(line: str) -> None:
    assert addresses.parse(f"# rack 3\r\n\n{line}\n".encode()) == [ONE]


@pytest.mark.parametrize("content", [b"", b"\n", b"# nothing\n", b"\r\n \r\n"])
def test_nobody_has_an_address(content: bytes) -> None:
    assert addresses.parse(content) == []


@pytest.mark.parametrize(
    ("line", "where", "message"),
    [
        (MAC, "", "1 words"),
        (f"{MAC} 10.9.0.20/24 10.9.0.1 10.9.0.2", "", "4 words"),
        ("52:54:00:00:00 10.9.0.20/24", ": MAC", "no MAC address"),
        ("* 10.9.0.20/24", ": MAC", "no MAC address"),
        ("ff:ff:ff:ff:ff:ff 10.9.0.20/24", ": MAC", "not that of one card"),
        ("01:00:5e:00:00:01 10.9.0.20/24", ": MAC", "not that of one card"),
        ("00:00:00:00:00:00 10.9.0.20/24", ": MAC", "not that of one card"),
        (f"{MAC} 10.9.0.20", ": ADDRESS/PREFIX", "no IPv4 address with a prefix"),
        (f"{MAC} 10.9.0.20/255.255.255.0", ": ADDRESS/PREFIX", "no IPv4 address with a prefix"),
        (f"{MAC} 10.9.0.20/33", ": ADDRESS/PREFIX", "no IPv4 address with a prefix"),
        (f"{MAC} 10.9.0.256/24", ": ADDRESS/PREFIX", "no IPv4 address with a prefix"),
        (f"{MAC} 010.9.0.20/24", ": ADDRESS/PREFIX", "no IPv4 address with a prefix"),
        (f"{MAC} 2001:db8::1/64", ": ADDRESS/PREFIX", "no IPv4 address with a prefix"),
        (f"{MAC} 10.9.0.0/24", ": ADDRESS/PREFIX", "cannot be the address of a machine"),
        (f"{MAC} 10.9.0.255/24", ": ADDRESS/PREFIX", "cannot be the address of a machine"),
        (f"{MAC} 10.9.0.20/0", ": ADDRESS/PREFIX", "cannot be the address of a machine"),
        (f"{MAC} 0.0.0.20/24", ": ADDRESS/PREFIX", "cannot be the address of a machine"),
        (f"{MAC} 127.0.0.1/8", ": ADDRESS/PREFIX", "cannot be the address of a machine"),
        (f"{MAC} 169.254.1.1/16", ": ADDRESS/PREFIX", "cannot be the address of a machine"),
        (f"{MAC} 224.0.0.5/24", ": ADDRESS/PREFIX", "cannot be the address of a machine"),
        (f"{MAC} 10.9.0.20/24 gateway", ": GATEWAY", "no IPv4 address"),
        (f"{MAC} 10.9.0.20/24 10.9.0.1/24", ": GATEWAY", "no IPv4 address"),
        (f"{MAC} 10.9.0.20/24 10.9.1.1", ": GATEWAY", "no other machine in 10.9.0.0/24"),
        (f"{MAC} 10.9.0.20/24 10.9.0.20", ": GATEWAY", "no other machine"),
        (f"{MAC} 10.9.0.20/24 10.9.0.255", ": GATEWAY", "no other machine"),
        (f"{MAC} 10.9.0.20/32 10.9.0.20", ": GATEWAY", "no other machine"),
        (f"{MAC} 10.9.0.22/24", ": MAC", "stands there twice"),
        ("52:54:00:00:00:16 10.9.0.21/16", ": ADDRESS", "is that of 52:54:00:00:00:15, too"),
        (f"{MAC}{' ' * 200}10.9.0.20/24", "", "more than 200 characters"),
        ("# caf\u00e9", "", "not ASCII"),
        ("\0", "", "1 words"),
    ],
)
def test_wrong_line_is_named_and_refuses_all(line: str, where: str, message: str) -> None:
    before = f"{TWO}\n" + ("" if "twice" not in message else f"{ONE}\n")
    with pytest.raises(FleetError) as caught:
        addresses.parse(f"{before}{line}\n".encode())
    assert caught.value.where == f"addresses.txt, line {before.count(chr(10)) + 1}{where}"
    assert message in caught.value.message
    assert caught.value.remedy is not None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"#" * (addresses.LARGEST + 1), "bytes"),
        (b"\n" * (addresses.MOST + 1), "lines"),
        (b"\xef\xbb\xbf# of an editor that marks its files\n", "ASCII"),
    ],
)
def test_too_much_or_something_else(content: bytes, message: str) -> None:
    with pytest.raises(FleetError, match=message):
        addresses.parse(content)


def _like_a_table() -> st.SearchStrategy[bytes]:
    word = st.one_of(
        st.from_regex(r"\A[0-9a-f]{2}([:-][0-9a-f]{2}){5}\Z"),
        st.ip_addresses(v=4).map(str),
        st.tuples(st.ip_addresses(v=4), st.integers(0, 40)).map(lambda pair: f"{pair[0]}/{pair[1]}"),
        st.text(max_size=20),
    )
    return st.lists(st.lists(word, max_size=4).map(" ".join), max_size=6).map("\n".join).map(str.encode)


@given(st.one_of(st.binary(max_size=300), _like_a_table()))
@example(f"{MAC} 10.9.0.20/24 10.9.0.1\n[Network]\nDNS=10.9.0.66\n".encode())
def test_whatever_stands_there_says_no_more_than_addresses(content: bytes) -> None:
    entries: list[Entry] = []
    with contextlib.suppress(FleetError):  # and nothing else
        entries = addresses.parse(content)
    for name, text in addresses.units(entries).items():
        assert name.removeprefix("40-").removesuffix(".network").isalnum()
        unit = configparser.ConfigParser(strict=True, interpolation=None)
        unit.optionxform = str  # type: ignore[assignment,method-assign]
        unit.read_string(text)
        assert set(unit.sections()) == set(SECTIONS)
        assert all(set(unit[section]) <= known for section, known in SECTIONS.items())
        assert unit["Network"]["DHCP"] == "no"


def test_file_of_a_card_stands_before_that_of_all() -> None:
    """As systemd-networkd sorts them (systemd.network(5))."""
    (name,) = addresses.units([ONE])
    assert name < "50-wired.network"
