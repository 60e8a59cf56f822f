from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from fedws.core import registry
from fedws.core.demo_nodes import DEMO_LABELS
from fedws.core.errors import UnknownName, UsageError
from fedws.data import loading, partitioning
from fedws.data.samples import ImageDataset
from tests.helpers.support import write_idx


class Mine:
    """A user's own data set."""

    def __init__(self, samples: int, targets: object) -> None:
        self._samples = samples
        if targets is not None:
            self.targets = targets

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.zeros(2), index % 3


def mine(root: Path, train: bool, *, samples: int = 9, labelled: str = "whole") -> Mine:
    targets = {"whole": torch.arange(samples) % 3, "real": torch.zeros(samples), "none": None}
    return Mine(samples, targets[labelled])


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    registry.register("dataset", "mine")(mine)
    yield
    registry._pieces.pop(("dataset", "mine"))


@pytest.mark.parametrize(
    ("node", "samples", "counts"),
    [
        ("alice", 24754, [5923, 6742, 5958, 6131, 0, 0, 0, 0, 0, 0]),
        ("bob", 17181, [0, 0, 0, 0, 5842, 5421, 5918, 0, 0, 0]),
        ("charlie", 18065, [0, 0, 0, 0, 0, 0, 0, 6265, 5851, 5949]),
    ],
)
def test_what_the_workers_of_the_demo_hold(mnist_root: Path, node: str, samples: int, counts: list[int]) -> None:
    whole = loading.load_dataset("mnist", str(mnist_root), train=True)
    data = loading.select_labels(whole, "mnist", DEMO_LABELS[node])
    assert isinstance(data, ImageDataset) and len(data) == samples
    assert torch.bincount(data.targets, minlength=10).tolist() == counts


def test_shares_hold_every_sample_once() -> None:
    whole = loading.load_dataset("digits", None, train=True)
    parts = [partitioning.select_share(whole, "digits", "shards:per_worker=1", share, 3) for share in range(3)]
    assert (
        all(isinstance(part, ImageDataset) for part in parts) and sum(len(part) for part in parts) == len(whole) == 1442
    )
    together = torch.cat([part.targets for part in parts if isinstance(part, ImageDataset)])
    assert torch.equal(together.bincount(), whole.targets.bincount())  # type: ignore[attr-defined]


def test_the_root_is_the_variable_without_a_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx(tmp_path / "MNIST" / "raw")
    monkeypatch.setenv("FEDWS_DATA", str(tmp_path))
    assert len(loading.load_dataset("mnist", None, train=True)) == 40
    assert len(loading.load_dataset("mnist", None, train=False)) == 20


def test_a_data_set_of_ones_own() -> None:
    data = loading.load_dataset("mine:12", None, train=True)
    assert len(data) == 12 and loading.count_classes(data, "mine") == 3
    assert len(loading.select_labels(data, "mine", (0, 2))) == 8
    assert len(partitioning.select_share(data, "mine", "iid", 1, 2)) == 6
    assert loading.get_dataset_title("mine:12") == "mine"
    with pytest.raises(UsageError, match="dataset mine has no default model; choose one with --model"):
        loading.get_default_model("mine")


def test_titles_and_models() -> None:
    names = ["mnist", "fashion_mnist", "cifar10", "digits"]
    assert [loading.get_dataset_title(name) for name in names] == ["MNIST", "FashionMNIST", "CIFAR10", "Digits"]
    assert [loading.get_default_model(name) for name in names] == ["mnist_cnn", "mnist_cnn", "cifar_cnn", "mnist_cnn"]


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("mine:0", "dataset mine:0 is empty: it has no training samples"),
        ("mine:samples=x", "dataset mine: samples: Input should be a valid integer"),
        ("mine:labelled=bad", "dataset mine:labelled=bad: KeyError: 'bad'"),
    ],
)
def test_what_cannot_be_had_is_said_in_one_line(spec: str, problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        loading.load_dataset(spec, None, train=True)
    assert str(caught.value).startswith(problem) and "\n" not in str(caught.value)


def test_an_unknown_data_set_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean"):
        loading.load_dataset("minst", None, train=True)


@pytest.mark.parametrize(
    ("labelled", "why"), [("none", "it has no attribute targets"), ("real", "its targets are float32")]
)
def test_a_data_set_without_labels_cannot_be_split_by_them(labelled: str, why: str) -> None:
    data = loading.load_dataset(f"mine:labelled={labelled}", None, train=True)
    text = f"^dataset mine has no class labels: {why}; .*attribute targets .*, or use --partition iid"
    with pytest.raises(UsageError, match=text):
        loading.select_labels(data, "mine", (1,))
    for partition in ("dirichlet", "shards"):
        with pytest.raises(UsageError, match=text):
            partitioning.select_share(data, "mine", partition, 0, 2)


@pytest.mark.parametrize("labelled", ["none", "real"])
def test_equal_shares_need_no_labels(labelled: str) -> None:
    data, whole = (loading.load_dataset(f"mine:labelled={which}", None, train=True) for which in (labelled, "whole"))
    parts, wanted = (partitioning.split_into_shares(each, "mine", "iid", 2) for each in (data, whole))
    assert sorted(np.concatenate(parts).tolist()) == list(range(9))
    assert all(np.array_equal(part, other) for part, other in zip(parts, wanted, strict=True))
    assert len(partitioning.select_share(data, "mine", "iid", 0, 2)) == 5


def test_a_seed_is_given_where_it_is_taken() -> None:
    assert partitioning.with_seed("dirichlet:0.5", 3) == "dirichlet:0.5,seed=3"
    assert partitioning.with_seed("iid:seed=7", 3) == "iid:seed=7"
    registry.register("partition", "halves")(halves)
    try:
        assert partitioning.with_seed("halves", 3) == "halves"
    finally:
        registry._pieces.pop(("partition", "halves"))


def halves(targets: np.ndarray, shares: int) -> list[np.ndarray]:
    return np.array_split(np.arange(len(targets)), shares)


def test_labels_that_nobody_has() -> None:
    data = loading.load_dataset("mine", None, train=True)
    with pytest.raises(UsageError, match="dataset mine has no samples with the labels 7, 9"):
        loading.select_labels(data, "mine", (7, 9))
