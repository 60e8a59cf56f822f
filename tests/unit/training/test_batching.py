"""Which samples make a batch: short last ones, and those of one sample where a batch norm trains."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedws.core.errors import TaskError
from fedws.core.seeds import seed_generators
from fedws.core.task_settings import TrainSettings
from fedws.training.batching import split_into_batches, trains_batch_norm
from fedws.training.local_training import compute_gradient, train
from fedws.training.task_context import TaskContext
from tests.helpers.tiny_training import Points


def net(*, norm: bool = True) -> nn.Sequential:
    with seed_generators(3):
        middle = nn.BatchNorm1d(4) if norm else nn.Tanh()
        return nn.Sequential(nn.Linear(2, 4), middle, nn.Linear(4, 2), nn.LogSoftmax(1))


def space(samples: int) -> TaskContext:
    return TaskContext("alice", "points", Points(samples))


def training(**more: Any) -> TrainSettings:
    return TrainSettings(
        **{"model": "any", "dataset": "points", "batch_size": 8, "max_local_batches": 100, "lr": 0.3, **more}
    )


def by_hand(module: nn.Module, samples: int, sizes: list[int], epochs: int = 1) -> None:
    """Plain descent on batches of these sizes."""
    shuffle = torch.Generator().manual_seed(7)
    optimizer, data = torch.optim.SGD(module.parameters(), 0.3), Points(samples)
    for _ in range(epochs):
        for chosen in torch.randperm(samples, generator=shuffle)[: sum(sizes)].split(sizes):
            optimizer.zero_grad()
            functional.nll_loss(module(data.inputs[chosen]), data.targets[chosen]).backward()
            optimizer.step()


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(one.state_dict()[name], value) for name, value in other.state_dict().items())


@pytest.mark.parametrize(
    ("samples", "norm", "options", "sizes"),
    [
        (17, True, {}, [8, 9]),
        (17, False, {}, [8, 8, 1]),
        (18, True, {}, [8, 8, 2]),
        (17, True, {"epochs": 2}, [8, 9]),
        (17, True, {"max_local_batches": 2}, [8, 8]),
        (17, True, {"max_local_batches": 3}, [8, 9]),
        (9, True, {}, [9]),
        (17, True, {"drop_last": True}, [8, 8]),
        (15, True, {"drop_last": True, "epochs": 3}, [8]),
        (15, False, {"drop_last": True}, [8]),
    ],
)
def test_training_takes_these_batches(samples: int, norm: bool, options: Any, sizes: list[int]) -> None:
    mine, wanted = net(norm=norm), net(norm=norm)
    done = train(mine, space(samples), training(**options), 7)
    by_hand(wanted, samples, sizes, options.get("epochs", 1))
    assert done.num_examples == sum(sizes) * options.get("epochs", 1)
    assert same(mine, wanted)


def test_a_limit_takes_the_same_samples_with_and_without_a_batch_norm() -> None:
    """17 are batches of 8, 8 and 1: four of them are the first epoch and a batch of the second."""
    settings = training(epochs=2, max_local_batches=4)
    assert [train(net(norm=norm), space(17), settings, 7).num_examples for norm in (True, False)] == [25, 25]


def test_a_batch_norm_that_does_not_train_joins_nothing() -> None:
    class Frozen(nn.Sequential):
        def train(self, mode: bool = True) -> "Frozen":
            super().train(mode)
            self[1].eval()
            return self

    mine, wanted = Frozen(*net()), Frozen(*net())
    assert train(mine, space(17), training(), 7).num_examples == 17
    by_hand(wanted.train(), 17, [8, 8, 1])
    assert same(mine, wanted)


@pytest.mark.parametrize("learn", [train, compute_gradient])
def test_one_sample_in_all_is_a_task_error_for_a_batch_norm(learn: Any) -> None:
    with pytest.raises(TaskError, match="batch norm on alice cannot train on a batch of one sample, which has no"):
        learn(net(), space(1), training(), 7)
    with pytest.raises(TaskError, match="--batch-size of 2 or more"):
        learn(net(), space(5), training(batch_size=1), 7)
    assert learn(net(norm=False), space(1), training(), 7).num_examples == 1


def test_other_errors_of_a_model_stay_what_they_are() -> None:
    class Wrong(nn.BatchNorm1d):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        train(nn.Sequential(nn.Linear(2, 4), Wrong(4)), space(5), training(), 7)


def test_pictures_can_be_normalised_one_by_one() -> None:
    """Batches of one are what was asked for, and 2d batch norm has the pixels."""

    class Pictures(Points):
        def __getitem__(self, index: int) -> tuple[Any, Any]:
            return self.inputs[index].reshape(1, 2, 1), self.targets[index]

    module = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.LogSoftmax(1))
    work = TaskContext("alice", "points", Pictures(3))
    assert train(module, work, training(batch_size=1), 7).num_examples == 3


def test_dropping_all_is_a_task_error() -> None:
    with pytest.raises(TaskError, match="alice has 5 samples, less than one batch of 8, and --drop-last"):
        train(net(), space(5), training(drop_last=True), 7)


def test_groups_of_nothing_and_of_all() -> None:
    assert split_into_batches(torch.arange(0), 4, join_last=True) == []
    assert [len(it) for it in split_into_batches(torch.arange(1), 4, join_last=True)] == [1]
    assert [len(it) for it in split_into_batches(torch.arange(3), 1, join_last=True)] == [1, 1, 1]
    assert [len(it) for it in split_into_batches(torch.arange(9), 4, join_last=True, drop_last=True)] == [4, 4]


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm])
def test_every_batch_norm_counts_while_it_trains(kind: Any) -> None:
    module = nn.Sequential(nn.Sequential(kind(3)))
    assert trains_batch_norm(module) and not trains_batch_norm(module.eval())
    assert not trains_batch_norm(nn.Sequential(nn.LayerNorm(3), nn.GroupNorm(1, 3)))
