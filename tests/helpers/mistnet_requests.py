"""Requests of a coordinator to MistNet's workers, and a worker with a folder of its own."""

from pathlib import Path
from typing import Any

import torch

from fedws.algorithms.mistnet import MistNet
from fedws.core import registry
from fedws.core.task_settings import TrainSettings
from fedws.core.tensors import Tensors, copy_to_cpu
from fedws.node.worker import Worker
from fedws.protocol.messages import TaskFailure, TaskRequest, TaskResult
from fedws.protocol.run_claim import RunClaim
from fedws.training import model_building
from tests.helpers.federation import Points

TOLD = (
    "num_records",
    "feature_bytes",
    "feature_shape",
    "encoding",
    "epsilon",
    "label_epsilon",
    "label_shape",
    "label_dtype",
)


def strategy(model: str = "points_net", **options: Any) -> MistNet:
    chosen = ",".join(f"{key}={value}" for key, value in {"split_at": "relu", **options}.items())
    made = registry.build_piece("algorithm", f"mistnet:{chosen}", TrainSettings(model=model, dataset="points"))
    assert isinstance(made, MistNet)
    return made


def weights(model: str = "points_net") -> Tensors:
    return copy_to_cpu(model_building.build_model(model, seed=3).state_dict())


def order(ask: Any, number: int = 1, **changes: Any) -> TaskRequest:
    asked = {"task": ask.task, "settings": {**ask.settings, **changes}, "tensors": ask.tensors}
    return TaskRequest(request_id=f"{number}/alice", worker="alice", round=number, **asked)


def worker(folder: Path, run: str = "first", **more: Any) -> Worker:
    made = Worker("alice", "points", Points(Path(), True), state_dir=folder / "uploads", **more)
    made.start_run(RunClaim(run, "lab"))
    return made


def extraction(
    send: bool = True, number: int = 1, changes: dict[str, Any] | None = None, **options: Any
) -> TaskRequest:
    return order(strategy(**options).configure_extraction(weights(), {}, 10, send=send), number, **(changes or {}))


def part(first: int = 0, count: int = 120, number: int = 2) -> TaskRequest:
    return order(strategy().configure_upload(first, count), number)


def reason(answer: TaskResult | TaskFailure) -> str:
    assert isinstance(answer, TaskFailure) and answer.kind == "refused", answer
    return answer.reason


def on_data(answer: TaskResult | TaskFailure) -> bool:
    """Return whether this is the answer for every failure that may depend on the samples."""
    wanted = ("failed", "the task failed on its data (see the log of alice)", "")
    return isinstance(answer, TaskFailure) and (answer.kind, answer.reason, answer.code) == wanted


def features(sent: TaskResult | TaskFailure) -> torch.Tensor:
    assert isinstance(sent, TaskResult), sent
    return sent.tensors["features"]
