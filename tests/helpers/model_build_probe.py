"""Requests for a model that records where it is built, and the node that answers them."""

import contextlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fedws
from fedws.core import registry
from fedws.core.task_settings import EvalSettings, TrainSettings
from fedws.core.tensors import Tensors, copy_to_cpu, hash_tensors
from fedws.node.evaluator import create_evaluator
from fedws.node.worker import Worker
from fedws.privacy.policy import Policy
from fedws.protocol.messages import TaskFailure, TaskRequest, TaskResult
from fedws.protocol.run_claim import RunClaim
from tests.helpers import mistnet_requests
from tests.helpers.federation import Points, registered

MADE: list[str] = []
"""Device of each model that was built, in order."""
TASKS = ("fedavg.fit", "fedsgd.gradient", "evaluate", "mistnet.extract")


class Watched(nn.Module):
    """A model of two layers from points to ten log-probabilities, which records the device of its weights."""

    def __init__(self, *, width: int = 11) -> None:
        super().__init__()
        self.inner, self.relu, self.outer = nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 10)
        MADE.append(self.inner.weight.device.type)

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """Return log-probabilities."""
        outputs: torch.Tensor = self.outer(self.relu(self.inner(points))).log_softmax(1)
        return outputs


class Reading(Watched):
    """The same model, which also reads a value while it is built; the device meta has none."""

    def __init__(self, *, width: int = 11) -> None:
        super().__init__(width=width)
        assert self.inner.weight.abs().max().item() > 0


@cache
def _kept() -> nn.Linear:
    return nn.Linear(4, 11)


class Keeping(Watched):
    """The same model, with a layer that is made once for all calls."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = _kept()


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Register these models and the points while the context lasts."""
    MADE.clear()
    _kept.cache_clear()
    pieces = {"watched": Watched, "reading": Reading, "keeping": Keeping}
    with registered():
        for name, piece in pieces.items():
            fedws.register("model", name)(piece)
        try:
            yield
        finally:
            for name in pieces:
                del registry._pieces["model", name]


def weights(model: str = "watched") -> dict[str, torch.Tensor]:
    """Return the weights of a model, without recording it."""
    found = copy_to_cpu(registry.build_piece("model", model).state_dict())
    MADE.clear()
    return found


def asked(task: str, model: str, tensors: Tensors, **more: Any) -> TaskRequest:
    """Return a request of a task for a model, with otherwise valid settings."""
    settings: dict[str, Any] = TrainSettings(model=model, dataset="points", max_local_batches=1).model_dump()
    if task == "evaluate":
        settings = EvalSettings(model=model, loss="nll", dataset="points").model_dump()
    if task == "mistnet.extract":
        ask = mistnet_requests.strategy().configure_extraction(mistnet_requests.weights(), {}, 10, send=False)
        inner = {name: tensor for name, tensor in tensors.items() if name.startswith("inner")}
        settings = {**ask.settings, "model": model, "extractors": [hash_tensors(inner)]}
        tensors = {f"0:{name}": tensor for name, tensor in inner.items()}
    return TaskRequest(
        request_id="1/alice", worker="alice", round=1, task=task, settings={**settings, **more}, tensors=tensors
    )


def answered(
    order: TaskRequest, policy: Policy | None = None, data: fedws.Dataset | None = None
) -> TaskResult | TaskFailure:
    """Return the answer of a node with that policy and data; by default without a policy, and with the points."""
    data, policy = data or Points(Path(), True), policy or Policy()
    make = create_evaluator if order.task == "evaluate" else Worker
    node = make("alice", "points", data, policy=policy)
    node.start_run(RunClaim("run", "lab"))
    return node.execute(order)


def refused(order: TaskRequest, policy: Policy | None = None, data: fedws.Dataset | None = None) -> str:
    """Return the reason why the request is refused for the whole run."""
    answer = answered(order, policy, data)
    assert isinstance(answer, TaskFailure) and (answer.kind, answer.code) == ("refused", "permanent"), answer
    return answer.reason
