# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._vm.options import Options, free_port, segment_address
from ansible_collections.vauban.fleet.plugins.module_utils._vm.spec import KernelBoot, SegmentNic, UefiBoot, UserNic
from ansible_collections.vauban.fleet.plugins.modules.qemu_vm import SPEC


@pytest.fixture
def parameters(tmp_path: Path) -> dict[str, Any]:
    for name in ("kernel", "image"):
        (tmp_path / name).touch()
    return {"name": "gate", "directory": str(tmp_path / "vm"), "kernel": str(tmp_path / "kernel")}


def parse(parameters: dict[str, Any], **others: Any) -> Options:
    validated = ArgumentSpecValidator(SPEC).validate({**parameters, **others})
    assert not validated.error_messages
    return Options.parse(validated.validated_parameters)


@pytest.mark.parametrize(
    ("others", "where", "message"),
    [
        ({"name": "a b"}, "machine a b: name", "'a b' is no simple name"),
        ({"directory": "relative"}, "directory", "relative is no absolute path"),
        ({"memory": "512"}, "memory", "'512' is no whole number of MiB; sizes look like 512M or 2G"),
        ({"memory": "much"}, "memory", "'much' is no size like 512M or 2G"),
        ({"memory": "-1G"}, "memory", "'-1G' is no size like 512M or 2G"),
        ({"memory": "32M"}, "machine gate: memory", "less than 64 MiB"),
        ({"cpus": 0}, "machine gate: cpus", "less than one"),
        ({"kernel": "/nosuch"}, "kernel", "/nosuch is not there"),
        ({"initrd": "/nosuch"}, "initrd", "/nosuch is not there"),
        ({"command_line": "a\nb"}, "command_line", "more than one line"),
        ({"kernel": None}, "kernel", "neither a kernel nor a firmware to boot"),
        ({"kernel": None, "firmware": {}, "command_line": "quiet"}, "initrd, command_line", "only a kernel has them"),
        ({"firmware": {}}, "firmware", "a kernel that is booted directly needs none"),
        ({"kernel": None, "firmware": {"secure_boot": True}}, "firmware.secure_boot", "nothing can be enforced"),
        ({"kernel": None, "firmware": {"keys": "/nosuch"}}, "firmware.keys", "/nosuch is no directory of keys"),
        ({"disks": [{}]}, "disks[0]", "exactly one of src and size is needed"),
        ({"disks": [{"size": "1G", "src": "/x"}]}, "disks[0]", "exactly one of src and size is needed"),
        ({"disks": [{"size": "1G"}, {"src": "/nosuch"}]}, "disks[1].src", "/nosuch is not there"),
        ({"disks": [{"size": "1G", "readonly": True}]}, "disks[0].readonly", "a new disk is empty"),
        ({"disks": [{"size": "tiny"}]}, "disks[0].size", "'tiny' is no size like 512M or 2G"),
        ({"disks": [{"src": "IMAGE", "format": "qcow2"}]}, "disks[0].format", "only a raw image can be written over"),
        ({"disks": [{"size": "1G", "serial": "a b"}]}, "machine gate: disks[0]", "bad serial 'a b'"),
        ({"networks": [{"mac": "52:54:00"}]}, "networks[0].mac", "'52:54:00' is no address like 52:54:00:12:34:56"),
        ({"networks": [{"kind": "segment"}]}, "networks[0].segment", "a segment, and nothing else, has a name"),
        ({"networks": [{"segment": "lan"}]}, "networks[0].segment", "a segment, and nothing else, has a name"),
        (
            {"networks": [{"kind": "segment", "segment": "lan", "forwards": [{"guest": 22}]}]},
            "networks[0].forwards",
            "only kind user forwards ports",
        ),
        (
            {"networks": [{"kind": "segment", "segment": "lan", "outside": True}]},
            "networks[0].outside",
            "nothing leaves a segment",
        ),
        ({"networks": [{"forwards": [{"guest": 70000}]}]}, "networks[0].forwards", "[70000] is no port"),
        ({"networks": [{"forwards": [{"guest": 22}, {"guest": 22}]}]}, "networks", "is forwarded twice"),
        (
            {"networks": [{"forwards": [{"guest": 1, "host": 9}]}, {"forwards": [{"guest": 2, "host": 9}]}]},
            "networks",
            "two forwards have the same host port",
        ),
    ],
)
def test_bad_option_is_named(parameters: dict[str, Any], others: dict[str, Any], where: str, message: str) -> None:
    for disk in others.get("disks", []):
        if disk.get("src") == "IMAGE":
            disk["src"] = str(Path(parameters["kernel"]).with_name("image"))
    with pytest.raises(FleetError) as caught:
        parse(parameters, **others)
    assert caught.value.where == where
    assert message in caught.value.message


@pytest.mark.parametrize("others", [{"state": "saved"}, {"state": "restored"}, {"wait_for": "marker"}])
def test_sdk_snapshot_and_marker_are_asked_for(parameters: dict[str, Any], others: dict[str, Any]) -> None:
    required = [("state", "saved", ["sdk", "snapshot"]), ("state", "restored", ["sdk", "snapshot"])]
    validator = ArgumentSpecValidator(SPEC, required_if=[*required, ("wait_for", "marker", ["marker"])])
    assert validator.validate({**parameters, **others}).error_messages


def test_machine_is_what_was_asked_for(parameters: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "vm").mkdir()
    image = str(tmp_path / "image")
    options = parse(
        parameters,
        memory="2G",
        disks=[{"src": image, "readonly": True}, {"src": image}, {"size": "1G", "serial": "data"}],
        networks=[{"mac": "52:54:00:AA:00:01", "forwards": [{"guest": 22}]}, {"kind": "segment", "segment": "lan"}],
    )
    spec = options.spec({22: 40022})
    assert spec.memory == 2048
    assert spec.boot == KernelBoot(tmp_path / "kernel")
    assert [(disk.path.name, disk.readonly) for disk in spec.disks] == [
        ("image", True),
        ("disk1.qcow2", False),
        ("disk2.qcow2", False),
    ]
    assert [disk.base for disk in spec.disks] == [None, Path(image), None]
    assert spec.nics[0] == UserNic({40022: 22}, mac="52:54:00:aa:00:01")
    assert spec.nics[1] == SegmentNic(*segment_address("lan"))
    assert options.inputs == [tmp_path / "kernel", tmp_path / "image", tmp_path / "image"]


def test_firmware_takes_the_place_of_a_kernel(parameters: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "vm").mkdir()
    boot = parse(parameters, kernel=None, firmware={}).spec({}).boot
    assert boot == UefiBoot(tmp_path / "vm/variables.fd", secure_boot=False)


def test_segments_are_told_apart_by_name() -> None:
    addresses = {segment_address(f"/srv/{number}/lan") for number in range(200)}
    assert len(addresses) == 200
    assert all(ipaddress.IPv4Address(group).is_multicast for group, _port in addresses)
    assert segment_address("lan") == segment_address("lan")


def test_port_in_use_is_not_free() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert free_port(port) is None
        assert free_port() not in (None, port)
    assert free_port(port) == port
