"""What a node can hold: an object that is not a map-style data set is a line when the node starts."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from fedws.core import registry
from fedws.core.errors import UsageError
from fedws.data import loading, map_style
from fedws.data.samples import SampleSubset
from fedws.node.worker import Worker
from fedws.split_learning.feature_store import FEATURES_KEY, LABELS_KEY, StoredFeatures

PAIRS = TensorDataset(torch.zeros(6, 2), torch.arange(6))


class Made(Dataset[Any]):
    """Three samples, each what ``sample`` makes."""

    def __init__(self, sample: Callable[[int], Any], length: Any = 3) -> None:
        self._sample = sample
        self._length = length

    def __len__(self) -> int:
        return self._length() if callable(self._length) else self._length  # type: ignore[no-any-return]

    def __getitem__(self, index: int) -> Any:
        return self._sample(index)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([])


class Endless:
    def __getitem__(self, index: int) -> Any:
        return 0, 0


class Bag:
    def __len__(self) -> int:
        return 3


def failing(index: int = 0) -> Any:
    raise LookupError("label\n  of a sample")


def mislabelled(given: Any) -> Any:
    data: Any = Made(lambda index: (0.0, 0))
    data.targets = given
    return data


KINDS = [
    (None, "the factory returned None; return the data set$"),
    (DataLoader(PAIRS), "the factory returned a DataLoader; return the data set itself"),
    (Stream(), "Stream is an IterableDataset, which cannot be read by index; a data set must have a length, and"),
    (Endless(), "Endless has no length; a data set must have a length, and data.i. must be a pair"),
    (iter([(0, 0)]), "list_iterator has no length; "),
    (Bag(), "Bag has no __getitem__; a data set must have a length, and data.i. must be a pair"),
    (Made(failing, failing), "cannot read its length: LookupError: label of a sample; a data set must have a length"),
    (Made(failing, "three"), "cannot read its length: TypeError: .*; a data set must have a length"),
    (Made(failing, -1), "cannot read its length: ValueError: .*; a data set must have a length"),
    (mislabelled([0, 1]), "it has 2 targets for 3 samples; give one target for each sample"),
    (mislabelled(np.zeros((4, 3))), "it has 4 targets for 3 samples; give one target for each sample"),
]
SAMPLES = [
    (Made(failing), "cannot read its first sample: LookupError: label of a sample$"),
    (Made(lambda index: {"x": 0, "y": 0}), "its first sample is a dict; data.i. must be a pair of input and target"),
    (Made(lambda index: torch.zeros(2)), "its first sample is a Tensor; data.i. must be a pair of input and target"),
    (Made(lambda index: (0, 0, 0)), "its first sample is a tuple of 3; data.i. must be a pair of input and target"),
    ((PAIRS, PAIRS), "its first sample is a TensorDataset; data.i. must be a pair of input and target"),
    (Made(lambda index: (object(), 0)), "cannot collate its first sample: TypeError: .*; inputs and targets"),
    (Made(lambda index: (0.0, None)), "cannot collate its first sample: TypeError: .*; inputs and targets"),
    (Made(lambda index: (0.0, "cat")), "a target is a str, expected a number or a tensor; number the classes from 0"),
    (Made(lambda index: (0.0, {"a": 1, "b": ["cat"]})), "a target is a str, expected a number or a tensor; number"),
]


class Pair(NamedTuple):
    input: Any
    target: Any


GOOD = [
    PAIRS,
    Subset(PAIRS, [1, 2]),
    [(0.0, 1), (0.5, 0)],
    Made(lambda index: [torch.zeros(2), index]),
    Made(lambda index: Pair(np.zeros(2, dtype=np.float32), True)),
    Made(lambda index: ({"ids": torch.zeros(2), "more": (1.0, 2)}, {"a": 1.0, "b": [1, 2]})),
    Made(lambda index: ((torch.zeros(2), torch.zeros(3)), torch.zeros(3))),
    mislabelled({"names": "of another kind"}),
    mislabelled(["cat", "dog", "cat"]),
]


@pytest.fixture
def given() -> Iterator[Callable[[Any], None]]:
    """Registers an object as the data set ``given``."""
    yield lambda data: registry._pieces.update({("dataset", "given"): lambda root, train: data})
    registry._pieces.pop(("dataset", "given"))


@pytest.mark.parametrize(("data", "text"), [*KINDS, *SAMPLES], ids=range(len(KINDS) + len(SAMPLES)))
def test_what_cannot_be_held_is_a_line_when_the_node_starts(data: Any, text: str, given: Callable[[Any], None]) -> None:
    given(data)
    with pytest.raises(UsageError, match=f"^dataset given: {text}") as caught:
        loading.load_dataset("given", None, train=True)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize("data", GOOD, ids=range(len(GOOD)))
def test_other_data_sets_are_taken_as_they_are(data: Any, given: Callable[[Any], None]) -> None:
    given(data)
    assert loading.load_dataset("given", None, train=True) is data


@pytest.mark.parametrize(("data", "text"), KINDS, ids=range(len(KINDS)))
def test_a_worker_from_python_takes_no_other_kind(data: Any, text: str) -> None:
    with pytest.raises(UsageError, match=f"^dataset given: {text}"):
        Worker("alice", "given", data)


def test_the_first_sample_is_read_of_what_a_worker_is_given_but_not_of_a_part() -> None:
    with pytest.raises(UsageError, match=r"^dataset given: cannot read its first sample: "):
        Worker("alice", "given", Made(failing))
    assert Worker("alice", "given", SampleSubset(Made(failing), torch.tensor([1]))).node == "alice"
    map_style.check_dataset(
        StoredFeatures([{FEATURES_KEY: torch.zeros(2, 3, dtype=torch.uint8), LABELS_KEY: torch.zeros(2)}])
    )
    map_style.check_dataset(StoredFeatures([]))
    map_style.check_dataset(SampleSubset(PAIRS, torch.tensor([1])))


def test_the_batch_that_training_uses_is_tried(given: Callable[[Any], None], tmp_path: Path) -> None:
    data: Any = Made(lambda index: (0.0, 0))
    data.batch = failing
    given(data)
    with pytest.raises(UsageError, match=r"^dataset given: cannot collate its first sample: LookupError"):
        loading.load_dataset("given", None, train=True)
