"""States that a checkpoint can hold are loaded as they were saved."""

import json
import math
import struct
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from fedws.core import tensor_file
from fedws.core.tensors import DTYPES, Tensors
from fedws.protocol.messages import TaskResult
from fedws.recording.checkpoint import Checkpoint, Checkpoints
from fedws.updates.aggregators.mean import MeanAccumulator, MeanAggregator
from tests.helpers.checkpoint_files import CALM, path_of, there_and_back
from tests.helpers.frozen_classes import Pair, Slotted


@dataclass(frozen=True)
class Round:
    """As ``fedws.scheduling.synchronous.SynchronousState``."""

    model: Tensors
    workers: tuple[str, ...]
    round: int
    sum: MeanAccumulator


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
    """The header is written here; the library checks that it is right."""
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
    """A mapping may make its values when asked: their ids are used again unless the values are kept."""

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
