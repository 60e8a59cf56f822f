"""States that a checkpoint cannot hold, and classes that are unknown when one is loaded."""

import sys
from collections import namedtuple
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from fedws.core.errors import UsageError
from fedws.recording import state_serialization
from fedws.recording.checkpoint import Checkpoints
from tests.helpers.checkpoint_files import names, path_of
from tests.helpers.frozen_classes import Pair, Slotted


@dataclass
class Thawed:
    value: int = 0


class Heir(Pair[int]):
    """Not a dataclass itself: what it adds is not a field."""


@dataclass(frozen=True)
class Text(str):
    """Not made as other dataclasses are."""


class Colour(IntEnum):
    RED = 1


Point = namedtuple("Point", "x y")


def _holding_itself() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


@dataclass(frozen=True)
class _Renamed:
    """Found under its name is something else."""


Lost, _Renamed = _Renamed, Pair  # type: ignore[misc,assignment]


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"a": [1, {2}]}, r"state\['a'\]\[1\] is a builtins.set, which a checkpoint cannot hold"),
        (Pair(Pair(0, (b"",))), r"state\.left\.right\[0\] is a builtins.bytes, which a checkpoint cannot hold"),
        ({"a": {1: 2}}, r"state\['a'\] has the key 1; a checkpoint holds string keys only"),
        (Thawed(), r"state is a \S+:Thawed, which is not a frozen dataclass that can be found by this name"),
        ([Heir(1)], r"state\[0\] is a \S+:Heir, which is not a frozen .*"),
        (Text(), r"state is a \S+:Text, which is not a frozen .*"),
        (Lost(), r"state is a \S+:_Renamed, which is not a frozen .*"),
        (Pair, r"state is a builtins.type, .*"),
        (Colour.RED, r"state is a \S+\.Colour, .*"),
        (Point(1, 2), r"state is a \S+\.Point, .*"),
        (torch.Size([1]), r"state is a torch\.Size, .*"),
        (torch.zeros(1).numpy()[0], r"state is a numpy\.float32, .*"),
        (torch.nn.Parameter(torch.zeros(1)), r"state is a torch\.nn\.parameter\.Parameter, .*"),
        ({"w": torch.zeros(1, requires_grad=True)}, r"state\['w'\] is a tensor that a .* cannot hold: .*grad=True"),
        (torch.zeros(1, dtype=torch.uint8).view(torch.bits8), r"state is a .* cannot hold: torch\.bits8, .*"),
        (torch.zeros(1, dtype=torch.bits8, device="meta"), r"state is a tensor .*: torch\.bits8, .*"),
        (torch.eye(2).to_sparse(), r"state is a tensor that a .* cannot hold: torch\.float32, torch\.sparse_coo, .*"),
        (_holding_itself(), r"state\[0\]\[0\].* is nested deeper than 100 levels"),
    ],
)
def test_anything_else_is_named_with_its_place(tmp_path: Path, state: Any, said: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, "before", {})
    with pytest.raises(TypeError, match=rf"\A{said}\Z"):
        checkpoints.save(2, state, {})
    assert checkpoints.load()[0].state == "before" and names(tmp_path) == [path_of(tmp_path, 1).name]


def test_a_class_of_a_function_is_refused_when_it_could_still_be_helped(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Local:
        pass

    with pytest.raises(
        TypeError, match=r"state\.left is a .*<locals>\.Local, which is not a frozen .* found by this name"
    ):
        Checkpoints(tmp_path).save(1, Pair(Local()), {})


def test_nothing_is_imported_because_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Kept:\n    value: int\n"
    (tmp_path / "of_a_checkpoint.py").write_text(source)
    module = ModuleType("of_a_checkpoint")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(source, module.__dict__)
    checkpoints = Checkpoints(tmp_path / "run")
    checkpoints.save(1, module.Kept(3), {})
    assert checkpoints.load()[0].state == module.Kept(3)
    monkeypatch.delitem(sys.modules, module.__name__)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=r"\Athe checkpoint holds a of_a_checkpoint:Kept, which is unknown here; .*\Z"):
        checkpoints.load()
    assert module.__name__ not in sys.modules


def test_a_name_is_looked_up_without_running_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module may import on demand, and what a name leads to may be anything."""
    module = ModuleType("of_a_checkpoint")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec("def __getattr__(name): raise SystemExit(name)", module.__dict__)
    for name in ("of_a_checkpoint:Kept", "of_a_checkpoint:Kept.Inner", "os:system", "builtins:object", "x:y", ":", ""):
        assert state_serialization._find_dataclass(name) is None
    assert state_serialization._find_dataclass(f"{__name__}:Slotted.Inner") is Slotted.Inner
    assert state_serialization._find_dataclass(f"{__name__}:Thawed") is None


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ("@dataclass(frozen=True)\nclass Kept:\n    other: int", "has other fields here"),
        ("@dataclass(frozen=True)\nclass Kept:\n    value: int\n    more: int = 0", "has other fields here"),
        ("@dataclass\nclass Kept:\n    value: int", "is unknown here"),
        ("class Kept:\n    value: int", "is unknown here"),
        ("Kept = print", "is unknown here"),
    ],
)
def test_a_class_that_has_changed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: str, said: str) -> None:
    module = ModuleType("of_a_checkpoint")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec("from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Kept:\n    value: int", module.__dict__)
    Checkpoints(tmp_path).save(1, module.Kept(3), {})
    exec(now, module.__dict__)
    with pytest.raises(
        UsageError, match=rf"holds a of_a_checkpoint:Kept, which {said}; continue with the code that wrote it"
    ):
        Checkpoints(tmp_path).load()
