"""Every registered data set that this machine has."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fedws.core import registry
from fedws.core.errors import UsageError
from fedws.data import download, loading
from fedws.data.base import Dataset
from fedws.data.samples import load_batch
from fedws.data.targets import find_labels
from fedws.training.model_building import build_model
from tests.helpers.support import require, write_idx


@pytest.fixture(scope="module", params=registry.list_pieces("dataset"))
def held(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The name of a data set and a folder that has it, or none; nothing is downloaded."""
    name = request.param
    root = Path(os.environ.get("FEDWS_DATA") or tmp_path_factory.mktemp("data"))
    if name in ("mnist", "cifar10"):
        root = request.getfixturevalue({"mnist": "mnist_root", "cifar10": "cifar_root"}[name])
    elif name == "fashion_mnist" and not (root / "FashionMNIST").exists():
        root = tmp_path_factory.mktemp("fashion")
        write_idx(root / "FashionMNIST" / "raw")

    def offline(*given: object) -> None:
        raise UsageError("nothing is downloaded in tests")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, "_download", offline)
        yield name, root


@pytest.fixture(scope="module")
def test_set(held: tuple[str, Path]) -> Dataset:
    return load(*held, train=False)


@pytest.fixture(scope="module")
def train_set(held: tuple[str, Path]) -> Dataset:
    return load(*held, train=True)


def load(name: str, root: Path, train: bool) -> Dataset:
    try:
        return loading.load_dataset(name, str(root), train)
    except UsageError as error:
        require(False, f"{name} is not here: {error}")
        raise


def test_samples_are_tensors_with_whole_labels(train_set: Dataset) -> None:
    sample, target = train_set[0]
    assert isinstance(sample, torch.Tensor) and sample.dtype == torch.float32 and torch.isfinite(sample).all()
    assert target == int(target)
    targets = find_labels(train_set)
    assert targets is not None and targets.dtype == torch.int64 and targets.shape == (len(train_set),)
    assert int(targets.min()) == 0 and len(targets.unique()) == int(targets.max()) + 1
    assert int(targets[0]) == target


def test_a_batch_is_its_samples(test_set: Dataset) -> None:
    indices = torch.tensor([0, len(test_set) - 1, 3])
    inputs, targets = load_batch(test_set, indices)
    for row, index in enumerate(indices.tolist()):
        sample, target = test_set[index]
        assert torch.equal(inputs[row], sample) and int(targets[row]) == target


def test_training_and_test_set_are_alike_but_not_the_same(train_set: Dataset, test_set: Dataset) -> None:
    assert train_set[0][0].shape == test_set[0][0].shape
    some = min(len(train_set), len(test_set))
    assert not torch.equal(load_batch(train_set, torch.arange(some))[0], load_batch(test_set, torch.arange(some))[0])


def test_inputs_are_normalised(train_set: Dataset) -> None:
    inputs, _ = load_batch(train_set, torch.arange(0, len(train_set), max(1, len(train_set) // 1000)))
    assert abs(float(inputs.mean())) < 1 and 0.3 < float(inputs.std()) < 3


def test_loading_again_gives_the_same(held: tuple[str, Path], test_set: Dataset) -> None:
    again, indices = load(*held, train=False), torch.arange(min(100, len(test_set)))
    one, other = load_batch(test_set, indices), load_batch(again, indices)
    assert len(again) == len(test_set) and torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_its_own_model_takes_it(held: tuple[str, Path], test_set: Dataset) -> None:
    module = build_model(loading.get_default_model(held[0]), seed=1).eval()
    outputs = module(load_batch(test_set, torch.arange(4))[0])
    assert outputs.shape == (4, loading.count_classes(test_set, held[0]))
    assert loading.get_dataset_title(held[0])
