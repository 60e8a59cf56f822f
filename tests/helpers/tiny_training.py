"""Set-up of the tests of algorithms: two workers with points of a plane, and a tiny model to train."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fedws.core.task_settings import TrainSettings
from fedws.core.tensors import Tensors
from fedws.protocol.messages import TaskRequest, TaskResult
from fedws.scheduling.asynchronous import AsynchronousScheduler
from fedws.scheduling.schedule_config import ScheduleConfig
from fedws.scheduling.synchronous import SynchronousScheduler
from fedws.training.model_building import build_model
from fedws.training.task_context import TaskContext

SIZES = {"alice": 40, "bob": 24}
"""Number of samples of each worker."""


class Points:
    """Points of a plane in two classes, drawn with the number of samples as seed."""

    def __init__(self, samples: int) -> None:
        self.inputs = torch.randn(samples, 2, generator=torch.Generator().manual_seed(samples))
        self.targets = (self.inputs.sum(1) > 0).long()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.inputs[index], self.targets[index]


def tiny_model() -> nn.Module:
    """Return a model with parameters, a frozen one, and the three buffers of a batch norm."""
    module = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2), nn.LogSoftmax(dim=1))
    module[3].bias.requires_grad_(False)
    return module


def train_settings(**options: Any) -> TrainSettings:
    """Return settings of a short training of the tiny model."""
    defaults = {"model": "tiny", "dataset": "points", "lr": 0.5, "batch_size": 8, "max_local_batches": 3}
    return TrainSettings(**{**defaults, **options})


def initial_model(name: str = "tiny") -> dict[str, torch.Tensor]:
    """Return the tensors of a registered model, built with seed 1."""
    return {key: value.detach() for key, value in build_model(name, 1).state_dict().items()}


def task_context(worker: str = "alice") -> TaskContext:
    """Return the context of a task on the samples of a worker."""
    return TaskContext(worker, "points", Points(SIZES[worker]))


def first_request(algorithm: Any, seed: int = 5, **settings: Any) -> TaskRequest:
    """Return the request of an algorithm to alice in the first round, with these settings changed."""
    spec = algorithm.configure(initial_model(), "alice", 1)
    return TaskRequest(
        request_id="1/alice",
        worker="alice",
        round=1,
        task=spec.task,
        seed=seed,
        settings={**spec.settings, **settings},
        tensors=spec.tensors,
    )


def task_result(request: TaskRequest, tensors: Tensors) -> TaskResult:
    """Return a result of a request with these tensors, of one sample."""
    return TaskResult(
        request_id=request.request_id, worker=request.worker, round=request.round, num_examples=1, tensors=tensors
    )


def asynchronous_scheduler(algorithm: Any, versions: int) -> AsynchronousScheduler[Any]:
    """Return a scheduler of an algorithm with both workers."""
    return AsynchronousScheduler(algorithm, ScheduleConfig(tuple(SIZES), versions, seed=7, min_results=1))


def run_rounds(
    scheduler: SynchronousScheduler[Any], task: Callable[[TaskRequest, TaskContext], TaskResult], model: Tensors
) -> Tensors:
    """Run all rounds from a model, where each task trains on its worker's samples and results come in reverse order."""
    state, requests = scheduler.start(model, list(SIZES))
    while requests:
        pending, requests = requests, ()
        for request in reversed(pending):
            state, requests = scheduler.react(state, task(request, task_context(request.worker)))
    return scheduler.model(state)
