"""The algorithm that CONTRIBUTING shows whole is one: it registers, its worker trains, its coordinator steps."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fedws.core import registry
from fedws.core.plugins import load_plugin
from fedws.core.task_settings import TrainSettings
from fedws.data.samples import ImageDataset
from fedws.node.worker import Worker
from fedws.protocol.messages import TaskRequest, TaskResult
from fedws.training.model_building import build_model
from tests.helpers.support import REPOSITORY


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """What the example registers is gone afterwards; what else was imported meanwhile stays known."""
    yield
    for piece in (("algorithm", "fedprox"), ("task", "fedprox.fit")):
        registry._pieces.pop(piece, None)


def test_the_algorithm_of_contributing_works(tmp_path: Path) -> None:
    found = re.search(r"```python\n(.*?)```", (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    (tmp_path / "fedprox.py").write_text(found[1], encoding="utf-8")
    load_plugin(tmp_path / "fedprox.py")
    pixels = torch.randint(0, 256, (64, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    worker = Worker("alice", "mnist", ImageDataset(pixels, torch.arange(64) % 10, (0.5,), (0.5,)))
    start = build_model("linear", 1).state_dict()
    moved = []
    for mu in ("0", "100"):
        algorithm = registry.build_piece(
            "algorithm", f"fedprox:{mu}", TrainSettings(model="linear", lr=0.01, batch_size=8)
        )
        ask = algorithm.configure(start, "alice", 1)
        order = TaskRequest(
            request_id="1/alice",
            worker="alice",
            round=1,
            task=ask.task,
            seed=5,
            settings=ask.settings,
            tensors=ask.tensors,
        )
        report = worker.execute(order)
        assert isinstance(report, TaskResult), report
        model = algorithm.server_update(start, report.tensors, 1)
        moved.append(sum(float((model[name] - start[name]).square().sum()) for name in start))
    assert 0 < moved[1] < moved[0] / 4, "mu holds the model near where it began"
