"""What a coordinator asks of MistNet's workers, and a worker with a folder of its own."""

from pathlib import Path
from typing import Any

import torch

from fedws.algorithms.mistnet import MistNet
from fedws.core import registry
from fedws.core.plan import Training
from fedws.core.tensors import Tensors, detached
from fedws.node.worker import Worker
from fedws.protocol.messages import Failure, Order, Report
from fedws.protocol.run_claim import Claim
from fedws.training import building
from tests.helpers.federation import Points

TOLD = ("records", "bytes", "shape", "encoding", "epsilon", "label_epsilon", "label_shape", "label_dtype")


def strategy(model: str = "points_net", **options: Any) -> MistNet:
    chosen = ",".join(f"{key}={value}" for key, value in {"cut": "relu", **options}.items())
    made = registry.build("strategy", f"mistnet:{chosen}", Training(model=model, dataset="points"))
    assert isinstance(made, MistNet)
    return made


def weights(model: str = "points_net") -> Tensors:
    return detached(building.initial(model, seed=3).state_dict())


def order(ask: Any, number: int = 1, **changes: Any) -> Order:
    asked = {"task": ask.task, "settings": {**ask.settings, **changes}, "tensors": ask.tensors}
    return Order(id=f"{number}/alice", worker="alice", round=number, **asked)


def worker(folder: Path, run: str = "first", **more: Any) -> Worker:
    made = Worker("alice", "points", Points(Path(), True), state=folder / "uploads", **more)
    made.begin(Claim(run, "lab"))
    return made


def extraction(send: bool = True, number: int = 1, changes: dict[str, Any] | None = None, **options: Any) -> Order:
    return order(strategy(**options).extraction(weights(), {}, 10, send=send), number, **(changes or {}))


def part(first: int = 0, count: int = 120, number: int = 2) -> Order:
    return order(strategy().upload(first, count), number)


def reason(answer: Report | Failure) -> str:
    assert isinstance(answer, Failure) and answer.kind == "refused", answer
    return answer.reason


def on_data(answer: Report | Failure) -> bool:
    """Whether it is what a coordinator gets for every failure that may depend on the samples."""
    wanted = ("failed", "the task failed on its data (see the log of alice)", "")
    return isinstance(answer, Failure) and (answer.kind, answer.reason, answer.code) == wanted


def features(sent: Report | Failure) -> torch.Tensor:
    assert isinstance(sent, Report), sent
    return sent.tensors["features"]
