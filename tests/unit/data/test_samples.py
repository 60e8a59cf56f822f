from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Subset, default_collate

from fedws.core.errors import TaskError
from fedws.data import loading
from fedws.data.samples import ImageDataset, SampleSubset, compute_fingerprint, iter_batches, load_batch, select_samples
from fedws.data.targets import find_labels
from fedws.training.batching import split_into_batches


@pytest.fixture(scope="module")
def mnist(mnist_root: Path) -> ImageDataset:
    data = loading.load_dataset("mnist", str(mnist_root), train=True)
    assert isinstance(data, ImageDataset)
    return data


class Plain:
    """The least that a data set can be."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((2,), float(index)), index * 10


def test_inputs_are_those_of_torchvision_to_the_bit(mnist: ImageDataset) -> None:
    from torchvision import transforms

    like = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    indices = torch.arange(0, 60000, 97)
    wanted = torch.stack([like(mnist.pixels[i].permute(1, 2, 0).numpy()) for i in indices])
    inputs, targets = mnist.batch(indices)
    assert inputs.dtype == torch.float32 and torch.equal(inputs, wanted)
    assert torch.equal(targets, mnist.targets[indices])
    # every value that a pixel can have
    every = ImageDataset(
        torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16), torch.zeros(1).long(), (0.1307,), (0.3081,)
    )
    assert torch.equal(every[0][0], like(np.arange(256, dtype=np.uint8).reshape(16, 16, 1)))


def test_a_batch_leaves_the_pixels_alone(mnist: ImageDataset) -> None:
    before = mnist.pixels[:3].clone()
    mnist.batch(torch.arange(3))
    assert torch.equal(mnist.pixels[:3], before)


def test_items_are_rows_of_a_batch(mnist: ImageDataset) -> None:
    image, target = mnist[7]
    inputs, targets = mnist.batch(torch.tensor([3, 7]))
    assert torch.equal(image, inputs[1]) and target == int(targets[1])


def test_selected_images_are_a_copy_of_their_own(mnist: ImageDataset) -> None:
    chosen = select_samples(mnist, torch.tensor([5, 2]))
    assert isinstance(chosen, ImageDataset)
    assert chosen.pixels.untyped_storage().nbytes() == 2 * 28 * 28
    assert torch.equal(chosen.batch(torch.tensor([0, 1]))[0], mnist.batch(torch.tensor([5, 2]))[0])
    assert repr(chosen) == "Images(2 of 1 x 28 x 28)"


def test_a_part_of_any_data_set() -> None:
    part = select_samples(Plain(), torch.tensor([4, 1, 2]))
    assert isinstance(part, SampleSubset) and len(part) == 3
    assert part[0][1] == 40 and find_labels(part) is None
    inputs, targets = load_batch(part, torch.tensor([1, 2]))
    assert targets.tolist() == [10, 20] and inputs[0].tolist() == [1.0, 1.0]
    twice = select_samples(part, torch.tensor([2]))
    assert twice[0][1] == 20


def test_a_part_has_the_targets_of_the_whole() -> None:
    whole = Plain()
    whole.targets = [0, 10, 20, 30, 40]  # type: ignore[attr-defined]
    found = find_labels(SampleSubset(whole, torch.tensor([3, 0])))
    assert found is not None and found.tolist() == [30, 0]


def test_batches_cover_the_order_given() -> None:
    found = [
        (targets.tolist(), count)
        for _, targets, count in iter_batches(Plain(), split_into_batches(torch.tensor([4, 3, 2, 1, 0]), 2))
    ]
    assert found == [([40, 30], 2), ([20, 10], 2), ([0], 1)]


class Rows(Plain):
    """Inputs are dicts with a tuple inside; ``collate_fn`` keeps how many samples there were."""

    def __getitem__(self, index: int) -> Any:
        return {"row": (torch.tensor(index), torch.tensor(-index))}, {"answer": index}

    @staticmethod
    def collate_fn(samples: list[Any]) -> Any:
        inputs, targets = default_collate(samples)
        return [{**inputs, "length": len(samples)}, targets]


ALL: Any = range(5)
SUBSET: Any = Subset(Rows(), ALL)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data", [Rows(), SampleSubset(Rows(), torch.arange(5)), SUBSET, SampleSubset(SUBSET, torch.arange(5))]
)
def test_a_collate_fn_is_used_also_of_a_part(data: Any) -> None:
    inputs, targets = load_batch(data, torch.tensor([3, 1]))
    assert inputs["length"] == 2 and targets["answer"].tolist() == [3, 1]
    assert [values.tolist() for values in inputs["row"]] == [[3, 1], [-3, -1]]


def test_a_sample_that_is_not_a_pair_is_a_task_error() -> None:
    """A dict of two would otherwise be taken apart into its keys."""

    class Single(Plain):
        def __getitem__(self, index: int) -> Any:
            return {"input_ids": torch.ones(2), "labels": 1}

    with pytest.raises(TaskError, match="a dict of 2, expected a pair of inputs"):
        load_batch(Single(), torch.tensor([0]))


def test_a_fingerprint_tells_of_nested_inputs() -> None:
    class Other(Rows):
        def __getitem__(self, index: int) -> Any:
            return {"row": (torch.tensor(index), torch.tensor(index + 1))}, {"answer": index}

    assert compute_fingerprint(Rows()) == compute_fingerprint(Rows()) != compute_fingerprint(Other())
