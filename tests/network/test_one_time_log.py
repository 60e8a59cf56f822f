"""What a run's log has once: what a worker trains, and that the loss does not fit the model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import fedws
from fedws.core import registry
from fedws.protocol.messages import TaskRequest, TaskResult
from fedws.training.task_warnings import LOG_LINES
from tests.helpers.federation import WORKERS, federation

TRAINS = "Each worker trains at most 5 batches of 8 (loss nll, sgd, lr 0.1, 2 % less each round)"
WARNING = LOG_LINES["not_log_probabilities"]


@pytest.fixture(autouse=True)
def _model(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(registry._pieces, ("model", "points_scores"), lambda: nn.Linear(4, 10))
    yield


def same(order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
    """A worker that does not look at its model's outputs."""
    return workspace.build_result(order, {}, order.tensors)


async def logged(folder: Path, tasks: Any = None, **more: Any) -> list[str]:
    async with federation("memory", tasks=tasks) as settings:
        await fedws.run(run_dir=folder / "run", **{**settings, **more})
    return [line.partition(" | ")[2] for line in (folder / "run" / "run.log").read_text().splitlines()]


async def test_scores_under_nll_are_warned_of_once(tmp_path: Path) -> None:
    lines = await logged(tmp_path, model="points_scores")
    assert lines[0] == TRAINS and lines.count(TRAINS) == 1
    assert lines.count(WARNING) == 1


async def test_the_evaluator_warns_where_the_workers_do_not(tmp_path: Path) -> None:
    lines = await logged(tmp_path, dict.fromkeys(WORKERS, same), model="points_scores")
    assert lines.count(WARNING) == 1


@pytest.mark.parametrize("more", [{"model": "points_linear"}, {"model": "points_scores", "loss": "cross_entropy"}])
async def test_what_fits_is_not_warned_of(tmp_path: Path, more: dict[str, str]) -> None:
    assert WARNING not in await logged(tmp_path, **more)


async def test_warnings_do_not_show_in_the_records(tmp_path: Path) -> None:
    await logged(tmp_path, model="points_scores")
    assert "not_log_probabilities" not in (tmp_path / "run" / "metrics.jsonl").read_text()
