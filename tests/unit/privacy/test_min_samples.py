"""How many samples a request uses at least, by its settings alone; held against what training uses."""

from typing import Any

import pytest
import torch

from fedws.algorithms.fedasync import FedAsyncSettings
from fedws.core.errors import TaskError
from fedws.core.task_settings import EvalSettings, TrainSettings
from fedws.privacy.min_samples import min_distinct_samples
from fedws.training.local_training import train
from fedws.training.task_context import TaskContext


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, 50),
        ({"batch_size": 2, "max_local_batches": 3}, 6),
        ({"batch_size": 2, "max_local_batches": 3, "epochs": 9}, 6),
        ({"batch_size": 2}, 20),
        ({"max_local_batches": 1}, 32),
        ({"max_local_batches": 1, "drop_last": True}, 32),
        ({"batch_size": 20, "drop_last": True}, 40),
        ({"batch_size": 51}, 50),
        ({"batch_size": 51, "drop_last": True}, 0),
        ({"batch_size": 1, "max_local_batches": 1}, 1),
    ],
)
def test_of_a_training_what_is_left_out_has_its_default(settings: dict[str, Any], wanted: int) -> None:
    assert min_distinct_samples({"model": "m", **settings}, 50, TrainSettings) == wanted


@pytest.mark.parametrize("size", [1, 2, 7, 32, 60])
@pytest.mark.parametrize("batches", [1, 3, 100])
@pytest.mark.parametrize("drop_last", [False, True])
def test_a_training_uses_no_fewer(size: int, batches: int, drop_last: bool) -> None:
    class Seen:
        """Samples that are numbers; which of them are read."""

        read: set[int]

        def __len__(self) -> int:
            return 50

        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            self.read.add(index)
            return torch.zeros(2), torch.tensor(0)

    data = Seen()
    data.read = set()
    chosen: dict[str, Any] = {
        "model": "m",
        "dataset": "d",
        "batch_size": size,
        "max_local_batches": batches,
        "drop_last": drop_last,
    }
    settings = TrainSettings(**chosen)
    wanted = min_distinct_samples(chosen, 50, TrainSettings)
    if not wanted:
        return
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LogSoftmax(1))
    train(module, TaskContext("alice", "d", data), settings, seed=1)
    assert len(data.read) == wanted


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_examples": 40},
        {"batch_size": "40", "max_local_batches": True},
        {"batch_size": -40, "max_local_batches": -1},
    ],
)
def test_of_a_task_that_does_not_state_its_settings_what_is_not_said_is_one_sample(settings: dict[str, Any]) -> None:
    assert min_distinct_samples(settings, 50) == 1


def test_of_settings_without_a_number_of_batches_one_is_known() -> None:
    assert min_distinct_samples({"model": "m", "loss": "nll", "dataset": "d", "batch_size": 8}, 50, EvalSettings) == 8


def test_wrong_settings_are_told_in_words() -> None:
    for settings in ({"model": "m", "max_local_batches": 0}, {"model": "m", "mu": 1}, {}):
        with pytest.raises(TaskError, match=r"^settings: "):
            min_distinct_samples(settings, 50, TrainSettings)
    assert min_distinct_samples({"model": "m", "batch_size": 2, "mu": 1.0}, 50, FedAsyncSettings) == 20
