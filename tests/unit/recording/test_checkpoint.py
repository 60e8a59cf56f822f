import contextlib
import errno
import itertools
import json
import math
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from types import FrameType, MappingProxyType, ModuleType
from typing import Any, Generic, TypeVar

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fedws.core import atomic_files, private_files, tensor_file
from fedws.core.errors import RunFailed, UsageError
from fedws.core.tensors import DTYPES, Tensors
from fedws.protocol.messages import TaskResult
from fedws.recording import checkpoint, state_serialization
from fedws.recording.checkpoint import Checkpoint, Checkpoints
from fedws.updates.aggregators.mean import MeanAccumulator, MeanAggregator
from tests.helpers.support import REPOSITORY

CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
T = TypeVar("T")


@dataclass(frozen=True)
class Pair(Generic[T]):
    left: T
    right: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slotted:
    value: Any

    @dataclass(frozen=True)
    class Inner:
        value: Any
        derived: int = field(init=False, default=0)

        def __post_init__(self) -> None:
            object.__setattr__(self, "derived", self.derived + 1)


@dataclass(frozen=True)
class Round:
    """As :class:`fedws.scheduling.synchronous.SynchronousState`."""

    model: Tensors
    workers: tuple[str, ...]
    round: int
    sum: MeanAccumulator


@dataclass
class Thawed:
    value: int = 0


class Heir(Pair[int]):
    """Not a dataclass itself: what it adds is no field."""


@dataclass(frozen=True)
class Text(str):
    """Not made as other dataclasses are."""


class Colour(IntEnum):
    RED = 1


Point = namedtuple("Point", "x y")


def there_and_back(directory: Path, state: Any, extra: Any = None) -> Any:
    checkpoints = Checkpoints(directory)
    checkpoints.save(1, state, extra or {})
    found, remark = Checkpoints(directory).load()
    assert found.version == 1 and remark == ""
    return found.state


def path_of(directory: Path, number: int) -> Path:
    return directory / f"checkpoint-{number:06}.safetensors"


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def bits(value: Any) -> Any:
    """A state as plain data that is equal exactly when the states are: every bit and every type, and what is shared."""
    shared: dict[int, int] = {}
    alive = []

    def of(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            about = [str(value.dtype), tuple(value.shape), value.device.type]
            if value.is_meta:
                return about
            alive.append(value)
            raw = value.clone(memory_format=torch.contiguous_format).flatten().view(torch.uint8).tolist()
            return [*about, raw, shared.setdefault(id(value), len(shared))]
        if isinstance(value, float):
            return ["float", struct.pack(">d", value)]
        if isinstance(value, Mapping):
            return ["dict", [(key, of(item)) for key, item in value.items()]]
        if isinstance(value, list | tuple):
            return [type(value), [of(item) for item in value]]
        if isinstance(value, Slotted | Slotted.Inner | Pair | Round | MeanAccumulator):
            return [type(value), [(name, of(getattr(value, name))) for name in type(value).__dataclass_fields__]]
        assert value is None or isinstance(value, bool | int | str)
        return [type(value), value]

    return of(value)


# --------------------------------------------------------------------------- what a state may hold

_marks = st.sampled_from(
    ["tensor", "dict", "class", "tuple", "meta", "int", "float", "str", "__metadata__", "checksum"]
)
_texts = _marks | st.text(st.characters(exclude_categories=[]), max_size=8)


@st.composite
def _tensor(draw: st.DrawFn) -> torch.Tensor:
    """Any bits of any dtype; 0-d, empty, transposed, strided, expanded and meta ones among them."""
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    size = math.prod(shape) * dtype.itemsize
    data = draw(st.binary(min_size=size, max_size=size))
    raw = torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8)[: len(data)]
    tensor = ((raw & 1) if dtype is torch.bool else raw).view(dtype).reshape(shape)
    form = draw(st.sampled_from(["as it is", "transposed", "every other", "expanded", "meta"]))
    if form == "transposed":
        return tensor.permute(list(reversed(range(tensor.dim()))))
    if form == "every other" and tensor.dim():
        return tensor[::2]
    if form == "expanded":
        return tensor.unsqueeze(0).expand(3, *tensor.shape)
    return tensor.to("meta") if form == "meta" else tensor


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = st.lists(inner, max_size=3)
    dicts = st.dictionaries(_texts, inner, max_size=3)
    return st.one_of(
        lists,
        lists.map(tuple),
        dicts,
        dicts.map(MappingProxyType),
        dicts.map(OrderedDict),
        st.builds(Pair, inner, inner),
        st.builds(Slotted, value=inner),
        st.builds(Slotted.Inner, inner),
    )


@st.composite
def _states(draw: st.DrawFn) -> Any:
    """Nested states in which some tensors stand in several places, and some view one buffer."""
    buffer = torch.arange(12.0)
    pool = [*draw(st.lists(_tensor(), max_size=3)), buffer, buffer[:6], buffer[3:9], buffer.view(3, 4)]
    leaves = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(-(2**200), 2**200),
        st.floats(),
        _texts,
        st.sampled_from(pool),
        _tensor(),
    )
    return draw(st.recursive(leaves, _nested, max_leaves=12))


@CALM
@example(state=[10**5000, -(10**5000), 2**63, -(2**63), 2**63 - 1, True, 1])
@example(state=[0.0, -0.0, math.inf, -math.inf, math.nan, *struct.unpack(">2d", bytes.fromhex("fff8000000000001" * 2))])
@example(state={"tensor": 1, "dict": {"class": ["x:y", {}]}, "": (), "\ud83d\ude00": "\ud83d\ude00", "é\n": "\udc80"})
@example(state=((), [], {}, ((),), [[]], {"a": {}}, Pair((), [])))
@example(state=Slotted.Inner(3))
@given(state=_states())
def test_every_state_comes_back(tmp_path_factory: pytest.TempPathFactory, state: Any) -> None:
    assert bits(there_and_back(tmp_path_factory.mktemp("run"), state)) == bits(state)


@pytest.mark.parametrize("name", DTYPES)
def test_a_tensor_of_every_dtype_is_what_the_library_reads(tmp_path: Path, name: str) -> None:
    """The header is written here; that it says the right things is for the library to tell."""
    tensors = {"odd": torch.ones(3, dtype=torch.bool), "one": torch.tensor([[0, 1], [1, 0]]).to(DTYPES[name])}
    there_and_back(tmp_path, tensors)
    library = safetensors.torch.load_file(path_of(tmp_path, 1))
    assert name in ("complex32", "complex128") or library["state['one']"].dtype == DTYPES[name]
    found = tensor_file.load_tensors(path_of(tmp_path, 1))  # the format has no code for those two
    assert {key: (tensor.dtype, tensor.tolist()) for key, tensor in found.items()} == {
        f"state[{key!r}]": (tensor.dtype, tensor.tolist()) for key, tensor in tensors.items()
    }
    with safetensors.safe_open(path_of(tmp_path, 1), "pt") as file:
        assert file.metadata()["format"] == "2" and file.metadata()["version"] == "1"
    whole = path_of(tmp_path, 1).read_bytes()
    length = int.from_bytes(whole[:8], "little")
    begins = json.loads(whole[8 : 8 + length])["state['one']"]["data_offsets"][0]
    assert length % 8 == 0 and begins % DTYPES[name].itemsize == 0, "readers may look at it where it lies"


def test_a_tensor_in_several_places_is_stored_once_and_is_one_again(tmp_path: Path) -> None:
    shared = torch.arange(1000.0)
    found = there_and_back(tmp_path, Pair({"a": shared}, [shared, (shared,)]), {"too": shared})
    assert found.left["a"] is found.right[0] is found.right[1][0]
    assert path_of(tmp_path, 1).stat().st_size < 2 * shared.nbytes


def test_tensors_come_back_in_memory_of_their_own(tmp_path: Path) -> None:
    """As an aggregator that adds to its sums needs them, and so that a small one does not keep a large one."""
    buffer = torch.zeros(8)
    found = there_and_back(tmp_path, {"a": buffer[:4], "b": buffer[4:], "c": torch.zeros(1).expand(4)})
    found["a"] += 1
    found["c"][0] = 5
    assert found["b"].tolist() == [0, 0, 0, 0] and found["c"].tolist() == [5, 0, 0, 0]
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in found.values())


@pytest.mark.parametrize(
    ("view", "values"),
    [
        (torch.tensor([1 + 2j, 3 - 4j]).conj().imag, [-2, 4]),
        (torch.tensor([1 + 2j]).conj().imag, [-2]),  # one element: it counts as contiguous, and is still to be negated
        (torch.arange(8.0)[4::4], [4]),  # one element, with the stride that it had among others
        (torch.arange(4.0)[4::3], []),
        (torch.arange(6.0).view(1, 2, 3).transpose(0, 2), [[[0], [3]], [[1], [4]], [[2], [5]]]),
    ],
)
def test_views_of_all_kinds_come_back_as_their_values(tmp_path: Path, view: torch.Tensor, values: Any) -> None:
    assert there_and_back(tmp_path, view).tolist() == values


def test_tensors_made_on_the_way_are_not_mixed_up(tmp_path: Path) -> None:
    """A mapping may make its values when asked: their ids are used again unless somebody keeps them."""

    class Lazy(Mapping[str, torch.Tensor]):
        def __getitem__(self, key: str) -> torch.Tensor:
            return torch.full((2,), float(key))

        def __iter__(self) -> Iterator[str]:
            return map(str, range(50))

        def __len__(self) -> int:
            return 50

    found = there_and_back(tmp_path, Lazy())
    assert {key: tensor.tolist() for key, tensor in found.items()} == {str(i): [i, i] for i in range(50)}


def test_what_goes_with_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    extra = {
        "plan": {"lr": 0.1, "plugins": ("a.py",), "seed": 2**64},
        "offsets": [1, 2],
        "loss": math.inf,
        "none": None,
    }
    Checkpoints(tmp_path).save(7, None, extra)
    assert Checkpoints(tmp_path).load() == (Checkpoint(7, None, extra), "")


def test_a_round_goes_on_from_the_middle_as_if_nothing_had_been(tmp_path: Path) -> None:
    def report(seed: int) -> TaskResult:
        random = torch.Generator().manual_seed(seed)
        tensors = {"w": torch.randn(40, 30, generator=random), "b": torch.randn((), generator=random).bfloat16()}
        tensors["batches"] = torch.tensor(seed)
        return TaskResult(request_id=f"1/{seed}", worker=str(seed), round=1, num_examples=10 + seed, tensors=tensors)

    mean = MeanAggregator(weight_by_samples=True)
    state = Round(
        report(0).tensors, ("1", "2", "3"), 1, mean.accumulate(mean.accumulate(mean.init(), report(1)), report(2))
    )
    back = there_and_back(tmp_path, state)
    assert bits(back) == bits(state) and all(tensor.is_meta for tensor in back.sum.templates.values())
    wanted, found = (mean.finalize(mean.accumulate(total, report(3))) for total in (state.sum, back.sum))
    assert bits(found) == bits(wanted)


# --------------------------------------------------------------------------- what it may not


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
        (Thawed(), r"state is a \S+:Thawed: not a frozen dataclass that can be found by this name"),
        ([Heir(1)], r"state\[0\] is a \S+:Heir: not a frozen .*"),
        (Text(), r"state is a \S+:Text: not a frozen .*"),
        (Lost(), r"state is a \S+:_Renamed: not a frozen .*"),
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

    with pytest.raises(TypeError, match=r"state\.left is a .*<locals>\.Local: not a frozen .* found by this name"):
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
    with pytest.raises(
        UsageError, match=r"\Athe checkpoint holds a of_a_checkpoint:Kept, which is not known here: .*\Z"
    ):
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
        ("@dataclass\nclass Kept:\n    value: int", "is not known here"),
        ("class Kept:\n    value: int", "is not known here"),
        ("Kept = print", "is not known here"),
    ],
)
def test_a_class_that_has_changed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: str, said: str) -> None:
    module = ModuleType("of_a_checkpoint")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec("from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Kept:\n    value: int", module.__dict__)
    Checkpoints(tmp_path).save(1, module.Kept(3), {})
    exec(now, module.__dict__)
    with pytest.raises(UsageError, match=rf"holds a of_a_checkpoint:Kept, which {said}: only the code that wrote it"):
        Checkpoints(tmp_path).load()


# --------------------------------------------------------------------------- files

STATE = Pair({"w": torch.tensor([1.5, -2.5]), "n": torch.tensor(3)}, "before")


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A directory with the checkpoints 11 and 12."""
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    checkpoints.save(11, STATE, {"round": 11})
    checkpoints.save(12, Pair(STATE.left, "after"), {"round": 12})
    return checkpoints.directory


def falls_back(directory: Path) -> None:
    found, remark = Checkpoints(directory).load()
    assert remark == "checkpoint 12 is damaged or cut short; going on from 11"
    assert found.version == 11 and found.extra == {"round": 11} and found.state.right == "before"
    assert found.state.left["w"].tolist() == [1.5, -2.5] and found.state.left["n"] == 3


def test_a_file_cut_short_anywhere_is_passed_over(two: Path) -> None:
    whole = path_of(two, 12).read_bytes()
    assert len(whole) < 1000
    for length in range(len(whole)):
        path_of(two, 12).write_bytes(whole[:length])
        falls_back(two)
    path_of(two, 12).write_bytes(whole + b"\0")
    falls_back(two)
    path_of(two, 12).write_bytes(whole)
    assert Checkpoints(two).load()[0].version == 12


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80, 0xFF])
def test_a_file_with_any_byte_changed_is_passed_over(two: Path, mask: int) -> None:
    whole = path_of(two, 12).read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= mask
        path_of(two, 12).write_bytes(damaged)
        falls_back(two)


@CALM
@given(data=st.data())
def test_bytes_of_a_file_that_were_never_written_are_seen(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """As after a power cut: a stretch of zeros, or of what the disk held before."""
    directory = tmp_path_factory.mktemp("run")
    Checkpoints(directory).save(11, STATE, {"round": 11})
    Checkpoints(directory).save(12, Pair(torch.arange(300.0)), {})
    whole = path_of(directory, 12).read_bytes()
    start = data.draw(st.integers(0, len(whole) - 1))
    length = data.draw(st.integers(1, len(whole) - start))
    fill = data.draw(st.binary(min_size=1, max_size=8))
    damaged = whole[:start] + (fill * length)[:length] + whole[start + length :]
    path_of(directory, 12).write_bytes(damaged)
    if damaged == whole:
        assert Checkpoints(directory).load()[0].version == 12
    else:
        falls_back(directory)


def test_when_none_is_whole_it_is_said_in_one_line(two: Path) -> None:
    for number in (11, 12):
        path_of(two, number).write_bytes(b"")
    with pytest.raises(RunFailed) as caught:
        Checkpoints(two).load()
    assert str(caught.value) == (
        f"there is no whole checkpoint in {two}: "
        "checkpoint 12 is damaged or cut short, checkpoint 11 is damaged or cut short"
    )


@pytest.mark.parametrize("name", ["", "not there", "file"])
def test_where_there_is_none_it_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "checkpoint-last.safetensors").write_text("not ours")
    with pytest.raises(UsageError) as caught:
        Checkpoints(tmp_path / name).load()
    assert str(caught.value) == f"there is no checkpoint in {tmp_path / name}"


@pytest.mark.parametrize(("number", "age"), [("1", "an older"), ("3", "a newer")])
def test_another_format_is_said_and_not_passed_over(
    number: str, age: str, two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "CHECKPOINT_FORMAT", number)
    Checkpoints(two).save(13, STATE, {})
    monkeypatch.undo()
    with pytest.raises(UsageError) as caught:
        Checkpoints(two).load()
    assert str(caught.value) == f"{path_of(two, 13)} was written by {age} fedws (format {number}; this one reads 2)"


@pytest.mark.parametrize("change", [{"w": {"dtype": "F128", "shape": [2]}}, {"state": "{"}, {"state": None}])
def test_a_foreign_file_whose_checksum_is_right_is_said(two: Path, change: dict[str, Any]) -> None:
    path = path_of(two, 12)
    whole = path.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + size])
    about = header["__metadata__"]
    (header if "w" in change else about).update(change)
    about["checksum"] = "00000000"
    text = json.dumps(header, separators=(",", ":")).encode()
    data = len(text).to_bytes(8, "little") + text + whole[8 + size :]
    checksum = b"%08x" % zlib.crc32(data)
    path.write_bytes(data[: checkpoint._CHECKSUM_SLICE.start] + checksum + data[checkpoint._CHECKSUM_SLICE.stop :])
    with pytest.raises(UsageError, match=r"checkpoint-000012.safetensors is no checkpoint of this fedws \(\w+: .*\)$"):
        Checkpoints(two).load()


def test_a_file_that_may_not_be_read_is_said(two: Path) -> None:
    path_of(two, 12).unlink()
    path_of(two, 12).mkdir()
    with pytest.raises(RunFailed) as caught:
        Checkpoints(two).load()
    assert str(caught.value) == f"{path_of(two, 12)} cannot be read: Is a directory"


def test_the_two_newest_are_kept_and_what_a_killed_save_left_is_removed(two: Path) -> None:
    (two / "model.safetensors.part").write_text("not ours")
    path_of(two, 3).write_text("old")
    for act in (lambda: Checkpoints(two).save(1_000_000, STATE, {}), lambda: Checkpoints(two).load()):
        (two / "checkpoint-000013.safetensors.part").write_text("half")
        act()
        kept = ["checkpoint-000012.safetensors", "checkpoint-1000000.safetensors", "model.safetensors.part"]
        assert names(two) == kept
    assert Checkpoints(two).load()[0].version == 1_000_000


def test_what_is_saved_is_the_newest_also_after_going_back(two: Path) -> None:
    """After 12 was found damaged the run goes on from 11, and need not come past 12 again."""
    path_of(two, 14).write_bytes(path_of(two, 12).read_bytes()[:-1])
    path_of(two, 12).unlink()
    Checkpoints(two).save(13, STATE, {})
    assert names(two) == [path_of(two, 11).name, path_of(two, 13).name]
    Checkpoints(two).save(13, Pair(1), {})
    assert names(two) == [path_of(two, 11).name, path_of(two, 13).name]
    assert Checkpoints(two).load()[0].state == Pair(1)


def test_a_run_that_has_finished_leaves_its_newest_checkpoint(two: Path) -> None:
    """And what else is in the directory; again, and where there is none, this does nothing."""
    (two / "checkpoint-000013.safetensors.part").write_text("half")
    (two / "model.safetensors").write_text("precious")
    newest = max(path.name for path in two.glob("checkpoint-*.safetensors"))
    for _ in range(2):
        Checkpoints(two).prune()
        assert names(two) == [newest, "model.safetensors"]
    assert Checkpoints(two).load()[0].version == 12
    Checkpoints(two / "none").prune()
    assert not (two / "none").exists()


def test_a_checkpoint_that_cannot_be_removed_is_said(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stuck(self: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    before = names(two)
    monkeypatch.setattr(Path, "unlink", stuck)
    with pytest.raises(RunFailed, match=r"checkpoint-0000\d\d.safetensors cannot be removed: Read-only file system\Z"):
        Checkpoints(two).prune()
    assert names(two) == before


# --------------------------------------------------------------------------- when writing fails


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (private_files, "open_binary"),
        (checkpoint, "view_bytes"),
        (os, "fsync"),
        (Path, "replace"),
        (atomic_files, "fsync_dir"),
    ],
)
def test_a_full_disk_leaves_the_checkpoints_before(
    two: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    def full(*given: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, full)
        with pytest.raises(RunFailed) as caught:
            Checkpoints(two).save(13, STATE, {})
    assert str(caught.value) == f"{path_of(two, 13)} cannot be written: No space left on device"
    before = [path_of(two, number).name for number in (11, 12)]
    assert [found for found in names(two) if found != path_of(two, 13).name] == before
    assert path_of(two, 13).exists() == (name == "fsync_dir"), "it is in place when its directory is synced"
    assert Checkpoints(two).load()[1] == ""


def test_a_file_in_the_way_of_the_directory_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(RunFailed, match=r"file/checkpoint-000001\.safetensors cannot be written: File exists\Z"):
        Checkpoints(tmp_path / "file").save(1, STATE, {})
    with pytest.raises(RunFailed, match=r"safetensors cannot be written: Not a directory\Z"):
        Checkpoints(tmp_path / "file" / "deeper").save(1, STATE, {})
    assert (tmp_path / "file").read_text() == "precious"


def test_a_file_system_that_cannot_sync_a_directory_is_borne(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def picky(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").resolve().is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", picky)
    there_and_back(tmp_path / "run", STATE)


def test_the_old_goes_when_the_new_is_on_the_disk(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []

    def watch(owner: Any, name: str, what: Callable[[Any], str]) -> None:
        real = getattr(owner, name)

        def watched(thing: Any, *given: Any, **options: Any) -> Any:
            done.append(f"{name} {what(thing)}")
            return real(thing, *given, **options)

        monkeypatch.setattr(owner, name, watched)

    watch(os, "fsync", lambda handle: Path(f"/proc/self/fd/{handle}").resolve().name)
    watch(Path, "replace", lambda path: path.name)
    watch(Path, "unlink", lambda path: path.name)
    Checkpoints(two).save(13, STATE, {})
    part = "checkpoint-000013.safetensors.part"
    removed = "unlink checkpoint-000011.safetensors"
    assert done == [f"fsync {part}", f"replace {part}", "fsync checkpoints", f"unlink {part}", removed]
    done.clear()
    Checkpoints(two.parent / "new").save(1, STATE, {})
    assert done[0] == "fsync run" and done[3] == "fsync new"


def apart(function: Callable[[Path], None], directory: Path) -> str:
    """What a function of this file prints in a process of its own, which may fork: it has one thread."""
    # More threads than one would be lost in a fork, and waited for.
    code = f"import {__name__} as t; t.torch.set_num_threads(1); t.{function.__name__}(t.Path({str(directory)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def save_beyond_the_limit(directory: Path) -> None:
    Checkpoints(directory).save(1, STATE, {})
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
    for elements in (10_000_000, 750_000):  # far beyond, and in the last bytes
        try:
            Checkpoints(directory).save(2, torch.zeros(elements), {})
        except RunFailed as error:
            print(error)
    print(names(directory), Checkpoints(directory).load()[0].version)


def test_a_file_that_may_not_grow_leaves_the_checkpoints_before(tmp_path: Path) -> None:
    said = apart(save_beyond_the_limit, tmp_path).splitlines()
    wanted = f"{path_of(tmp_path, 2)} cannot be written: File too large"
    assert said == [wanted, wanted, f"{['checkpoint-000001.safetensors']} 1"]


# --------------------------------------------------------------------------- when killed


def filled(number: int, elements: int) -> Any:
    return {"w": torch.full((elements,), float(number))}


def forked(act: Callable[[], None]) -> int:
    """Do something in a child, and no longer than a minute; gives its id."""
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(60)
            act()
            os._exit(0)
        finally:
            os._exit(1)
    return child


def end(child: int) -> int:
    """Wait for a child; gives its exit code, or minus its signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at_every_line(directory: Path) -> None:
    for line in itertools.count(1):
        shutil.rmtree(directory, ignore_errors=True)
        for number in (1, 2):
            Checkpoints(directory).save(number, filled(number, 3), {})
        left = itertools.count(line, -1)

        def trace(frame: FrameType, event: str, argument: Any, left: Iterator[int] = left) -> Any:
            if frame.f_code.co_filename != checkpoint.__file__:
                return None
            if event == "line" and next(left) == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        def act(trace: Any = trace) -> None:
            sys.settrace(trace)
            Checkpoints(directory).save(3, filled(3, 3), {})

        status = end(forked(act))
        assert status in (0, -signal.SIGKILL)
        found, remark = Checkpoints(directory).load()
        assert remark == "" and found.version in (2, 3) and found.state["w"].tolist() == [found.version] * 3
        assert len(names(directory)) in (2, 3) and not any(name.endswith(".part") for name in names(directory))
        print(found.version)
        if status == 0:
            return


def test_killed_at_any_line_of_a_save_a_whole_checkpoint_is_there(tmp_path: Path) -> None:
    found = apart(kill_at_every_line, tmp_path / "run").split()
    assert len(found) > 50 and found == sorted(found) and set(found) == {"2", "3"}


ELEMENTS = 2_000_000


def kill_while_writing(directory: Path) -> None:
    """Kill a process that saves one after another, when its temporary file has come so far."""
    number = 1
    Checkpoints(directory).save(number, filled(number, ELEMENTS), {})
    for share in range(10):
        told, tell = os.pipe()

        def act(first: int = number + 1, tell: int = tell) -> None:
            for number in itertools.count(first):
                Checkpoints(directory).save(number, filled(number, ELEMENTS), {})
                os.write(tell, struct.pack("<q", number))

        child = forked(act)
        os.close(tell)
        ready = os.read(told, 8)
        assert ready, "it has saved once"
        while written(directory) < share * ELEMENTS * 4 // 10:
            assert not os.waitpid(child, os.WNOHANG)[0], "it saves on"
        os.kill(child, signal.SIGKILL)
        assert end(child) == -signal.SIGKILL
        last = struct.unpack("<q", (ready + os.read(told, 2**16))[-8:])[0]
        os.close(told)
        half = written(directory) >= 0
        found, remark = Checkpoints(directory).load()
        number = found.version
        assert remark == "" and number in (last, last + 1)
        assert torch.equal(found.state["w"], filled(number, ELEMENTS)["w"])
        print("half" if half else "whole")


def written(directory: Path) -> int:
    """Bytes of the temporary file that is there; -1 when there is none."""
    for path in directory.glob("*.part"):
        with contextlib.suppress(FileNotFoundError):
            return path.stat().st_size
    return -1


def test_killed_while_writing_the_last_checkpoint_is_there(tmp_path: Path) -> None:
    found = apart(kill_while_writing, tmp_path / "run").split()
    assert len(found) == 10 and "half" in found


# --------------------------------------------------------------------------- memory


def test_nothing_is_copied_to_write_or_read(tmp_path: Path) -> None:
    state = {"w": torch.zeros(4_000_000), "transposed": torch.zeros(100, 200).t()}
    checkpoints = Checkpoints(tmp_path)
    tracemalloc.start()
    try:
        checkpoints.save(1, state, {})
        saving = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        checkpoints.load()
        loading = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert saving < 2**20 and loading < 4 * 2**20
    tensor = state["w"]
    assert checkpoint.view_bytes(tensor).obj.__array_interface__["data"][0] == tensor.data_ptr()  # type: ignore[attr-defined]
