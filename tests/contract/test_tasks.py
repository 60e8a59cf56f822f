"""Every registered task, and the evaluator's: the same order gives the same report, and a wrong one a refusal."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fedws.coordinator.setup import prepare_run
from fedws.core import registry
from fedws.core.plan import build_plan
from fedws.core.seeds import request_seed
from fedws.core.tensors import Tensors
from fedws.node.evaluator import evaluate_request
from fedws.node.worker import Worker
from fedws.protocol.encoder import encode_message
from fedws.protocol.messages import TaskFailure, TaskRequest, TaskResult
from fedws.split_learning.base import is_collect_then_train
from tests.helpers.federation import Points, registered

GATHERING = tuple(
    it for it in registry.list_pieces("algorithm") if is_collect_then_train(registry.find_piece("algorithm", it))
)
NAMES = [*(name for name in registry.list_pieces("task") if name.partition(".")[0] not in GATHERING), "evaluate"]
"""Those whose report is a matter of order and data alone; for those with noise there is
``test_collect_then_train.py``."""
every = pytest.mark.parametrize("name", NAMES)


def chancy() -> nn.Module:
    """With everything in which a task could be careless: dropout, batch norm, and a frozen layer."""
    module = nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 10), nn.LogSoftmax(dim=1)
    )
    module[0].bias.requires_grad_(False)
    return module


@pytest.fixture(autouse=True, scope="module")
def _pieces() -> Iterator[None]:
    with registered(), pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._pieces, ("model", "chancy"), chancy)
        yield


def order(name: str) -> TaskRequest:
    """The first order of this task that its strategy gives."""
    plan = build_plan(
        {
            "algorithm": name.partition(".")[0] if name != "evaluate" else "fedavg",
            "dataset": "points",
            "model": "chancy",
            "batch_size": 8,
            "max_local_batches": 4,
        }
    )
    _, strategy, initial = prepare_run(plan)
    if name == "evaluate":
        settings = plan.eval_settings().model_dump()
        return TaskRequest(request_id="1/alice", worker="alice", round=1, task=name, settings=settings, tensors=initial)
    _, orders = strategy.start(initial, list(plan.workers))
    return next(order for order in orders if order.task == name)


def worker(dataset: str = "points") -> Worker:
    return Worker("alice", dataset, Points(Path(), True))


def answer(order: TaskRequest, node: Worker | None = None) -> TaskResult | TaskFailure:
    node = node or worker()
    if order.task == "evaluate":
        node._tasks = {"evaluate": evaluate_request}
    return node.execute(order)


def reported(order: TaskRequest, node: Worker | None = None) -> TaskResult:
    found = answer(order, node)
    assert isinstance(found, TaskResult), found
    return found


def refused(order: TaskRequest, node: Worker | None = None) -> str:
    found = answer(order, node)
    assert isinstance(found, TaskFailure) and found.kind == "refused", found
    assert (found.request_id, found.worker, found.round) == (order.request_id, "alice", order.round)
    assert found.reason and found.reason.isprintable()
    return found.reason


def bits(tensors: Tensors) -> dict[str, tuple[Any, ...]]:
    return {name: (tensor.dtype, tensor.shape, tensor.tolist()) for name, tensor in tensors.items()}


def told(report: TaskResult) -> dict[str, Any]:
    return {**vars(report), "tensors": bits(report.tensors)}


@every
def test_the_same_order_gives_the_same_report_to_the_bit(name: str) -> None:
    node, asked = worker(), order(name)
    torch.manual_seed(1)
    one = told(reported(asked, node))
    torch.manual_seed(2)
    assert told(reported(asked, node)) == one, "a node that has worked before"
    assert told(reported(order(name))) == one, "another node with the same data"


@every
def test_the_seed_is_the_one_of_the_order(name: str) -> None:
    asked = order(name)
    other = reported(dataclasses.replace(asked, seed=request_seed(2, "alice", 1)))
    assert (told(other) == told(reported(asked))) == (name == "evaluate"), "only scoring leaves nothing to chance"


@every
def test_the_order_is_not_changed(name: str) -> None:
    asked = order(name)
    tensors, settings = bits(asked.tensors), dict(asked.settings)
    report = reported(asked)
    for tensor in report.tensors.values():
        tensor.zero_()
    assert bits(asked.tensors) == tensors and asked.settings == settings


@every
def test_the_process_is_left_as_it_was(name: str) -> None:
    asked = order(name)
    torch.manual_seed(1)
    before = torch.get_rng_state(), torch.is_grad_enabled(), torch.get_num_threads()
    reported(asked)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (torch.is_grad_enabled(), torch.get_num_threads()) == before[1:]


@every
def test_the_report_is_of_the_order_and_can_travel(name: str) -> None:
    asked = order(name)
    report = reported(asked)
    assert (report.request_id, report.worker, report.round) == (asked.request_id, "alice", asked.round)
    assert report.num_examples == len(Points(Path(), True))
    assert encode_message(report).size > 0
    assert all(tensor.device.type == "cpu" and not tensor.requires_grad for tensor in report.tensors.values())
    assert all(torch.isfinite(tensor).all() for tensor in report.tensors.values())


@every
def test_a_report_holds_no_data_of_the_node(name: str) -> None:
    """As far as shapes can show: no tensor has the size of the data, and metrics are few."""
    report, samples = reported(order(name)), len(Points(Path(), True))
    assert all(samples not in tensor.shape for tensor in report.tensors.values())
    assert all(not isinstance(value, list) or len(value) < samples for value in report.metrics.values())


@every
@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 0},
        {"batch_size": "8"},
        {"batch_size": 8.0},
        {"model": "no_such_model"},
        {"model": "linear:inputs=0"},
        {"model": "chancy:1"},
        {"model": None},
        {"loss": "no_such_loss"},
        {"loss": "nll:k=1"},
        {"cuda": 1},
        {"mu": -1.0},
        {"mu": float("inf")},
        {"command": "rm"},
    ],
    ids=str,
)
def test_bad_settings_are_refused(name: str, settings: dict[str, Any]) -> None:
    asked = order(name)
    refused(dataclasses.replace(asked, settings={**asked.settings, **settings}))


@every
def test_no_settings_are_refused(name: str) -> None:
    refused(dataclasses.replace(order(name), settings={}))


@every
def test_other_data_are_refused(name: str) -> None:
    assert refused(order(name), worker("mnist")) == "alice has data set 'mnist', not 'points'"


@every
@pytest.mark.parametrize("spoilt", ["shape", "dtype", "missing", "more", "none", "another"])
def test_tensors_of_another_model_are_refused(name: str, spoilt: str) -> None:
    asked = order(name)
    good = dict(asked.tensors)
    wrong: Tensors = {
        "shape": {**good, "0.weight": good["0.weight"].t()},
        "dtype": {**good, "0.weight": good["0.weight"].double()},
        "missing": {key: tensor for key, tensor in good.items() if key != "1.running_mean"},
        "more": {**good, "more": torch.ones(1)},
        "none": {},
        "another": registry.build_piece("model", "points_linear").state_dict(),
    }[spoilt]
    assert "differs on alice" in refused(dataclasses.replace(asked, tensors=wrong))


@every
def test_settings_without_end_do_no_harm(name: str) -> None:
    """Numbers that only a hostile coordinator sends: refused, failed or borne, and the node lives on."""
    node = worker()
    for key, value in (("batch_size", 2**64 - 1), ("max_local_batches", 2**64 - 1), ("lr", 1e300), ("mu", 1e300)):
        asked = order(name)
        if key in asked.settings:
            found = answer(dataclasses.replace(asked, settings={**asked.settings, key: value}), node)
            assert isinstance(found, TaskResult | TaskFailure)
    assert told(reported(order(name), node)) == told(reported(order(name)))


@every
def test_a_task_that_is_told_to_stop_has_failed(name: str) -> None:
    node = worker()
    node.stop()
    found = answer(order(name), node)
    assert isinstance(found, TaskFailure) and (found.kind, found.reason) == ("failed", "task cancelled")
    node.resume()
    assert reported(order(name), node)
