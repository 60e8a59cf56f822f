"""Class labels, whichever type holds them; targets of another kind are not class labels, and the reason is a line."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset, random_split

from fedws.data import samples, targets
from fedws.data.samples import SampleSubset, compute_fingerprint, load_batch, select_samples


class Held(Dataset[tuple[torch.Tensor, int]]):
    """Six samples whose inputs are their indices."""

    def __init__(self, given: Any = None) -> None:
        if given is not None:
            self.targets = given

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((2,), float(index)), index


class Fast(Held):
    """The same with a batch of its own, which tells that it was used."""

    def batch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return indices * 1.0, indices + 100


GIVEN = [3, 0, 1, 1, 0, 3]
WHOLE = torch.tensor(GIVEN)


@pytest.mark.parametrize(
    "given",
    [
        GIVEN,
        tuple(GIVEN),
        [torch.tensor(label) for label in GIVEN],
        [np.int16(label) for label in GIVEN],
        np.array(GIVEN, dtype=object),
        np.broadcast_to(np.array(GIVEN), 6),
        np.array([0, *GIVEN])[:0:-1][::-1],
        *(np.array(GIVEN, dtype=kind) for kind in ("u1", "u2", "u4", "u8", "i1", ">i4", "i8")),
        *(WHOLE.to(kind) for kind in (torch.uint8, torch.int8, torch.int32, torch.int64, torch.uint16)),
    ],
    ids=lambda given: f"{type(given).__name__} of {getattr(given, 'dtype', type(given[0]).__name__)}",
)
def test_whole_numbers_are_labels(given: Any) -> None:
    found = targets.read_labels(Held(given))
    assert found.dtype == torch.int64 and found.tolist() == GIVEN


@pytest.mark.parametrize(
    "given", [[True, False] * 3, np.array([True, False] * 3), torch.tensor([True, False] * 3), (np.bool_(1), False) * 3]
)
def test_booleans_are_the_labels_1_and_0(given: Any) -> None:
    found = targets.read_labels(Held(given))
    assert found.dtype == torch.int64 and found.tolist() == [1, 0] * 3


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (None, "it has no attribute targets"),
        ([0.0] * 6, "its targets are float32"),
        ([0.0, float("nan")] * 3, "its targets are float32"),
        (np.zeros(6), "its targets are float64"),
        (torch.zeros(6, dtype=torch.bfloat16), "its targets are bfloat16"),
        (torch.zeros(6, dtype=torch.complex64), "its targets are complex64"),
        (torch.zeros(6, 3, dtype=torch.int64), "its targets have the shape [6, 3]"),
        ([[0, 1]] * 6, "its targets have the shape [6, 2]"),
        ([[0], [0, 1]] * 3, "its targets cannot be converted to one array (ValueError)"),
        (["cat", "dog"] * 3, "its targets are text"),
        (np.array(["cat", "dog"] * 3, dtype=object), "its targets are text"),
        ([None, 1] * 3, "its targets are not all numbers (dtype object)"),
        ([2**70, 1] * 3, "its targets are not all numbers (dtype object)"),
        (np.zeros(6, dtype="M8[s]"), "its targets are not all numbers (dtype datetime64[s])"),
        ({1: 2}, "its targets are a single dict, expected a list, array or tensor"),
        ("abcdef", "its targets are a single str, expected a list, array or tensor"),
        (torch.tensor(3), "its targets are a single Tensor, expected a list, array or tensor"),
        ([0, -1] * 3, "its targets contain -1, which is not from 0 to 1048575"),
        ([0, 2**20] * 3, "its targets contain 1048576, which is not from 0 to 1048575"),
        (np.full(6, 2**64 - 1, dtype=np.uint64), f"its targets contain {2**63 - 1}, which is not from 0 to 1048575"),
        ([0, 1], "it has 2 targets for 6 samples; give one target for each sample"),
    ],
    ids=str,
)
def test_other_targets_are_not_labels(given: Any, why: str) -> None:
    with pytest.raises(ValueError) as caught:
        targets.read_labels(Held(given))
    assert str(caught.value) == why
    assert targets.find_labels(Held(given)) is None


def test_the_largest_label_is_one() -> None:
    assert targets.read_labels(Held([0, 2**20 - 1] * 3)).max() == 2**20 - 1


def test_a_property_that_fails_is_a_reason() -> None:
    class Failing(Held):
        @property
        def targets(self) -> Any:
            raise KeyError("y")

    with pytest.raises(ValueError, match=r"^reading its attribute targets raises KeyError$"):
        targets.read_labels(Failing())


@pytest.mark.parametrize("indices", [[5, 0, 2], range(1, 4), np.array([4, 4]), torch.tensor([3]), []], ids=str)
def test_a_subset_has_the_labels_of_its_samples(indices: Sequence[int]) -> None:
    found = targets.read_labels(Subset(Held(GIVEN), indices))
    assert found.tolist() == [GIVEN[int(index)] for index in indices]


def test_subsets_and_joined_data_sets_in_each_other() -> None:
    joined: Any = ConcatDataset([Held(GIVEN), Subset(Held([7, 8, 9, 7, 8, 9]), [2, 0])])
    assert targets.read_labels(joined).tolist() == [*GIVEN, 9, 7]
    first, second = random_split(joined, [3, 5], torch.Generator().manual_seed(1))
    inner = Subset(first, [2, 1])
    wanted = [[*GIVEN, 9, 7][first.indices[place]] for place in (2, 1)]
    assert targets.read_labels(inner).tolist() == wanted
    assert targets.read_labels(SampleSubset(second, torch.tensor([4]))).tolist() == [[*GIVEN, 9, 7][second.indices[4]]]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (Subset(Held(), [0]), "it has no attribute targets"),
        (TensorDataset(torch.zeros(6, 2), torch.arange(6)), "it has no attribute targets"),
        (ConcatDataset([Held(GIVEN), Held()]), "it has no attribute targets"),
        (
            ConcatDataset([Held(GIVEN), Held(torch.zeros(6, 2))]),
            "its parts have targets of different shapes",
        ),
    ],
)
def test_torch_s_data_sets_without_targets(data: Any, why: str) -> None:
    with pytest.raises(ValueError, match=f"^{why}$"):
        targets.read_labels(data)


def test_a_subset_s_own_targets_go_first() -> None:
    data: Any = Subset(Held(GIVEN), [0, 1])
    data.targets = [5, 6]
    assert targets.read_labels(data).tolist() == [5, 6]
    assert targets.read_labels(select_samples(data, torch.tensor([1]))).tolist() == [6]


def test_a_subset_keeps_the_fast_batch() -> None:
    data: Any = Subset(Subset(Fast(GIVEN), [5, 4, 3, 2]), [3, 1, 0])
    _, found = load_batch(data, torch.tensor([0, 2]))
    assert found.tolist() == [102, 105]
    part = select_samples(data, torch.tensor([1, 2]))
    assert load_batch(part, torch.tensor([0, 1]))[1].tolist() == [104, 105]
    assert targets.read_labels(part).tolist() == [0, 3]


def test_a_part_of_a_subset_of_images_is_images() -> None:
    pixels = torch.arange(6, dtype=torch.uint8).reshape(6, 1, 1, 1)
    images = samples.ImageDataset(pixels, WHOLE, (0.0,), (1.0,))
    some: Any = Subset(images, [5, 3, 1])  # type: ignore[arg-type]
    found = select_samples(some, torch.tensor([2, 0]))
    assert isinstance(found, samples.ImageDataset)
    assert found.pixels.flatten().tolist() == [1, 5] and found.targets.tolist() == [0, 3]


def test_targets_of_any_kind_tell_samples_apart() -> None:
    """Features that were made of other samples must never be taken for these."""
    given = (None, GIVEN, torch.zeros(6), torch.ones(6), torch.zeros(6, 2), [True] * 6)
    assert len({compute_fingerprint(Held(each)) for each in given}) == len(given)
    assert compute_fingerprint(Held(GIVEN)) == compute_fingerprint(Held(WHOLE))
    assert compute_fingerprint(Subset(Held(GIVEN), range(6))) == compute_fingerprint(Held(WHOLE))
