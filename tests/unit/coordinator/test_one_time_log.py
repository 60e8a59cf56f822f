"""What a run logs once: what a worker trains, and warnings."""

from dataclasses import replace
from typing import Any

import pytest

from fedws.coordinator.one_time_log import OneTimeLog, describe_workload
from fedws.core import registry
from fedws.core.plan import build_plan
from fedws.protocol.messages import DEFAULT_COORDINATOR_ID, TaskRequest
from fedws.recording.ordered_log import OrderedLog
from fedws.training.task_warnings import LOG_LINES


def orders(strategy: str = "fedavg", **settings: Any) -> Any:
    plan = build_plan({"algorithm": strategy, "model": "linear", **settings})
    ask = registry.build_piece("algorithm", strategy, plan.train_settings()).configure({}, "alice", 3)
    order = TaskRequest(request_id="3/alice", worker="alice", round=3, task=ask.task, settings=ask.settings, tensors={})
    return [order], plan


@pytest.mark.parametrize(
    ("strategy", "settings", "line"),
    [
        ("fedavg", {}, "Each worker trains at most 10 batches of 32 (loss nll, sgd, lr 0.1, 2 % less each round)"),
        ("fedavg", {"lr_decay": 1}, "Each worker trains at most 10 batches of 32 (loss nll, sgd, lr 0.1, constant)"),
        (
            "fedavg",
            {"lr_decay": 0.995},
            "Each worker trains at most 10 batches of 32 (loss nll, sgd, lr 0.1, 0.5 % less each round)",
        ),
        ("fedavg:2", {}, "Each worker trains 2 epochs in batches of 32 (loss nll, sgd, lr 0.1, 2 % less each round)"),
        (
            "fedavg",
            {"epochs": 1, "lr_decay": 1},
            "Each worker trains 1 epoch in batches of 32 (loss nll, sgd, lr 0.1, constant)",
        ),
        (
            "fedasync",
            {"epochs": 2, "max_local_batches": 7, "drop_last": True, "optimizer": "adam", "lr": 0.01},
            "Each worker trains 2 epochs in batches of 32, at most 7 batches, without a short last batch "
            "(loss nll, adam, lr 0.01, 2 % less each round)",
        ),
        (
            "fedsgd",
            {"max_local_batches": 1, "batch_size": 8},
            "Each worker trains at most 1 batch of 8 (loss nll, sgd, lr 0.1, 2 % less each round)",
        ),
    ],
)  # fmt: skip
def test_what_a_worker_trains(strategy: str, settings: dict[str, Any], line: str) -> None:
    assert describe_workload(*orders(strategy, **settings)) == [line]


def test_orders_that_do_not_say_so_have_no_line() -> None:
    (order,), plan = orders()
    assert describe_workload([], plan) == []
    assert describe_workload([replace(order, settings={"max_local_batches": 1})], plan) == []
    assert describe_workload([replace(order, worker=DEFAULT_COORDINATOR_ID)], plan) == []
    assert describe_workload([replace(order, worker=DEFAULT_COORDINATOR_ID), order], plan) != []


def test_a_warning_is_logged_once_and_only_if_it_is_known() -> None:
    logged: list[str] = []
    remarks = OneTimeLog(OrderedLog(logged.append))
    remarks.log_warnings({"loss": 1.0})
    for warnings in ("not_log_probabilities", {"not_log_probabilities": 1}, 5, None, ["rm -r", 7, [1]]):
        remarks.log_warnings({"warnings": warnings})
    assert logged == []
    for _ in range(3):
        remarks.log_warnings({"warnings": ["other", "not_log_probabilities", "not_log_probabilities"]})
    assert logged == [LOG_LINES["not_log_probabilities"]]
    assert "use --loss cross_entropy" in logged[0]
