"""A small network, a data set of points, and the settings of a training and of an evaluation on it."""

from typing import Any

import torch
from torch import nn

from fedws.core.seeds import seed_generators
from fedws.core.task_settings import EvalSettings, TrainSettings
from fedws.training.task_context import TaskContext


class Points:
    """A minimal data set: points of a plane with two classes, or with a value."""

    def __init__(self, samples: int, regression: bool = False) -> None:
        random = torch.Generator().manual_seed(samples)
        self.inputs = torch.randn(samples, 2, generator=random)
        self.answers = (self.inputs.sum(1) > 0).long() if not regression else self.inputs.sum(1)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.inputs[index], self.answers[index]


def net() -> nn.Module:
    """Build a model with every kind of state: parameters, the buffers of batch norm, and randomness (dropout)."""
    with seed_generators(3):
        return nn.Sequential(
            nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.4), nn.Linear(8, 2), nn.LogSoftmax(dim=1)
        )


def space(samples: int = 50, **options: Any) -> TaskContext:
    return TaskContext("alice", "points", Points(samples), **options)


def training(**options: Any) -> TrainSettings:
    return TrainSettings(model="any", dataset="points", **options)


def scoring(**options: Any) -> EvalSettings:
    return EvalSettings(**{"model": "any", "loss": "nll", "dataset": "points", **options})


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return list(mine) == list(theirs) and all(torch.equal(mine[key], theirs[key]) for key in mine)
