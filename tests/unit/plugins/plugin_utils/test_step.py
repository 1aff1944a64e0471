# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._image.stage import Stage
from ansible_collections.vauban.fleet.plugins.plugin_utils._step import StepAction


class Copy(StepAction):
    """Copies a file, which has to be there to know what goes in."""

    SPEC: ClassVar[dict[str, Any]] = {
        "source": {"type": "path", "required": True},
        "dest": {"type": "path", "required": True},
        "work": {"type": "path"},
    }

    def __init__(self, **task_vars: Any) -> None:
        """Without the task and the connection that Ansible gives an action."""
        self.task_vars = task_vars

    def stage(self, arguments: Mapping[str, Any]) -> Stage:
        source = Path(arguments["source"])
        if not source.exists():
            raise FleetError("not there", where=str(source))
        return Stage(Path(arguments["dest"]), {"source": source.read_text()})

    def make(self, arguments: Mapping[str, Any], stage: Stage) -> Mapping[str, Any]:
        stage.output.write_text(Path(arguments["source"]).read_text())
        return {"size": stage.output.stat().st_size}


@pytest.fixture
def arguments(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/source").write_text("text")
    return {"source": str(tmp_path / "in/source"), "dest": str(tmp_path / "out/copy"), "work": str(tmp_path)}


def test_what_is_foreseen_is_what_happens(arguments: dict[str, str], tmp_path: Path) -> None:
    outcomes = [Copy()._predict(arguments), Copy()._reuse_or_build(arguments)]
    assert [(outcome["changed"], outcome["reason"]) for outcome in outcomes] == [(True, "first build")] * 2
    outcomes = [Copy()._predict(arguments), Copy()._reuse_or_build(arguments)]
    assert [(outcome["changed"], outcome["reason"]) for outcome in outcomes] == [(False, "inputs unchanged")] * 2
    assert [outcome["size"] for outcome in outcomes] == [4, 4]
    assert (tmp_path / "out/copy").read_text() == "text"


def test_foreseeing_writes_nothing_and_returns_nothing_of_an_older_build(
    arguments: dict[str, str], tmp_path: Path
) -> None:
    Copy()._predict(arguments)
    assert not (tmp_path / "out").exists()
    Copy()._reuse_or_build(arguments)
    Path(arguments["source"]).write_text("other text")
    foreseen = Copy()._predict(arguments)
    assert foreseen["reason"] == "changed: source"
    assert "size" not in foreseen
    assert (tmp_path / "out/copy").read_text() == "text"


@pytest.mark.parametrize(
    "result",
    [
        {"changed": True, "path": "{place}/in/source"},
        {"changed": True, "path": "{place}/in"},
        {"changed": True, "path": "{place}/in/source/part"},
        {"changed": True, "path": "{place}/elsewhere", "link": "{place}/in/source"},
        {"changed": True, "results": [{"changed": False}, {"changed": True, "path": "{place}/in/source"}]},
    ],
)
@pytest.mark.parametrize("there", [True, False])
def test_an_input_that_an_earlier_task_would_make(
    arguments: dict[str, str], tmp_path: Path, result: dict[str, Any], there: bool
) -> None:
    Copy()._reuse_or_build(arguments)
    if not there:
        Path(arguments["source"]).unlink()
    foreseen = Copy(registered=_at(result, tmp_path))._predict(arguments)
    assert foreseen["changed"]
    assert foreseen["reason"] == "would change: source"
    assert foreseen["path"] == arguments["dest"]


@pytest.mark.parametrize(
    "result",
    [
        {"changed": False, "path": "{place}/in/source"},
        {"changed": True, "path": "{place}/in/other"},
        {"changed": True, "path": "{place}/out"},
        {"changed": True},
    ],
)
def test_tasks_that_do_not_touch_the_inputs(arguments: dict[str, str], tmp_path: Path, result: dict[str, Any]) -> None:
    Copy()._reuse_or_build(arguments)
    assert not Copy(registered=_at(result, tmp_path))._predict(arguments)["changed"]


def test_an_input_that_nobody_would_make_is_an_error(arguments: dict[str, str]) -> None:
    Path(arguments["source"]).unlink()
    with pytest.raises(FleetError, match="not there"):
        Copy()._predict(arguments)


def test_an_interrupted_build_looks_unfinished(arguments: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    Copy()._reuse_or_build(arguments)
    Path(arguments["source"]).write_text("other text")

    def fail(*_: Any) -> Mapping[str, Any]:
        raise FleetError("interrupted")

    monkeypatch.setattr(Copy, "make", fail)
    with pytest.raises(FleetError, match="interrupted"):
        Copy()._reuse_or_build(arguments)
    assert Copy()._predict(arguments)["reason"] == "first build"


def _at(result: Any, place: Path) -> Any:
    if isinstance(result, dict):
        return {key: _at(value, place) for key, value in result.items()}
    if isinstance(result, list):
        return [_at(item, place) for item in result]
    return result.format(place=place) if isinstance(result, str) else result
