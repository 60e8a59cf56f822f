"""Requests, results and coordinators that a policy allows or refuses, and the reasons."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from fedws.core.errors import RetryLater, TaskError
from fedws.core.registry import TaskTraits
from fedws.core.task_settings import TrainSettings as Settings
from fedws.node.worker import DEFAULT_POLICY
from fedws.privacy.policy import Policy
from fedws.protocol.messages import TaskRequest, TaskResult
from tests.helpers.policy_worker import order

UPDATE, METRICS = TaskTraits("update", settings=Settings), TaskTraits("metrics")


def refusal(policy: Policy, asked: TaskRequest, held: int = 100, rounds: int = 0) -> str:
    """Why an order is refused."""
    with pytest.raises(TaskError) as error:
        policy.check_request(asked, held, left(rounds), METRICS if asked.task == "evaluate" else UPDATE)
    assert "\n" not in str(error.value)
    return str(error.value)


def left(rounds: int) -> dict[str, float]:
    """So many answers that left just now."""
    return {str(number): 0.0 for number in range(rounds)}


def report(held: int = 100, tensors: bool = False, **behind: Any) -> TaskResult:
    """A report of a node with so many samples; ``behind`` it, that is behind its numbers, may be others."""
    sent = {"w": torch.zeros(2)} if tensors else {}
    metrics = {"num_examples": behind["behind"]} if behind else {}
    return TaskResult(request_id="1/alice", worker="alice", round=1, num_examples=held, metrics=metrics, tensors=sent)


def test_without_a_policy_whatever_is_registered_is_allowed() -> None:
    for asked in (order(), order("evaluate"), order("mine.fit", model="mine", epochs=10**9), order(model=5)):
        DEFAULT_POLICY.check_request(asked, 1, left(1000))
    DEFAULT_POLICY.check_result(report(tensors=True))
    assert DEFAULT_POLICY.allows_coordinator("") and DEFAULT_POLICY.allows_coordinator("mallory")


@pytest.mark.parametrize(
    ("patterns", "task", "allowed"),
    [
        (("*.fit",), "fedavg.fit", True),
        (("*.fit",), "evaluate", False),
        (("fedavg.fit",), "fedavg.fit", True),
        (("fedavg.fit",), "Fedavg.fit", False),
        (("fedavg.fit",), "fedavg.fit2", False),
        (("*.fit", "evaluate"), "evaluate", True),
        ((), "evaluate", False),
    ],
)
def test_tasks(patterns: tuple[str, ...], task: str, allowed: bool) -> None:
    policy = Policy(tasks=patterns)
    if allowed:
        policy.check_request(order(task), 1, left(0))
    else:
        assert refusal(policy, order(task)) == f"policy: task {task!r} is not allowed"


@pytest.mark.parametrize("model", ["cifar_cnn", "mlp2", " mlp2 ", "mlp2:hidden=3", "mlp2,hidden=3", "*", "MLP"])
def test_models_that_are_not_named_are_refused(model: str) -> None:
    assert refusal(Policy(models=("mlp",)), order(model=model)) == f"policy: model {model!r} is not allowed"


@pytest.mark.parametrize("model", ["mlp", "mlp:64", "mlp:hidden=64", "mlp,hidden=64", " mlp "])
def test_a_model_is_known_by_its_name_whatever_its_options(model: str) -> None:
    Policy(models=("mlp",)).check_request(order(model=model), 1, left(0))


def test_a_name_of_any_length_makes_a_short_reason() -> None:
    assert len(refusal(Policy(tasks=()), order("t" * 10**6))) < 200
    assert len(refusal(Policy(models=("mlp",)), order(model="m" * 10**6))) < 200


@pytest.mark.parametrize("epochs", [3, 10**30, "1", None, 2.0, [1], float("nan")])
def test_more_passes_than_allowed_are_refused(epochs: Any) -> None:
    assert refusal(Policy(max_epochs=2), order(epochs=epochs)).endswith(" epochs requested, at most 2 allowed")


def test_an_order_is_of_one_pass_unless_it_says_so() -> None:
    Policy(max_epochs=1).check_request(order(), 1, left(0))
    Policy(max_epochs=2).check_request(order(epochs=2), 1, left(0))


def test_a_model_is_allowed_by_its_name_and_an_order_must_name_one() -> None:
    with pytest.raises(ValidationError, match="has options; use the name alone, which allows any options"):
        Policy(models=("mlp:hidden=5",))
    policy = Policy(models=("mlp",))
    policy.check_request(order(model="mlp:hidden=5"), 1, left(0))
    assert "a request without a model is not allowed" in refusal(policy, replace(order(), settings={}), 1)


def test_samples() -> None:
    policy = Policy(min_samples=50)
    policy.check_request(order(), 50, left(0), UPDATE)
    assert refusal(policy, order(), 49) == "policy: each released value requires at least 50 samples, this node has 49"
    policy.check_result(report(50))
    policy.check_result(report(1000, behind=50))
    for few in (report(49), report(1000, behind=49), report(1000, behind="many"), report(1000, behind=None)):
        with pytest.raises(TaskError, match="requires at least 50 samples, this result has "):
            policy.check_result(few)


def test_updates() -> None:
    """By the name of the task before it has cost anything, and in any case by what it would send."""
    policy = Policy(allow_updates=False)
    assert refusal(policy, order("fedavg.fit")) == "policy: model updates are not allowed"
    policy.check_request(order("evaluate"), 1, {}, METRICS)
    policy.check_result(report())
    with pytest.raises(TaskError, match="plain tensors in results are not allowed"):
        policy.check_result(report(tensors=True))


def test_rounds() -> None:
    policy = Policy(max_answers_per_day=3)
    policy.check_request(order(), 1, left(2))
    used = "policy: the limit of 3 answers a day is reached; the next one is allowed in 24 h"
    assert refusal(policy, order(), 1, 3) == used


@pytest.mark.parametrize(
    ("ages", "hours", "duration"),
    [
        ((1, 23, 5), 1, "1 h"),
        ((1, 20, 5, 6, 23.9), 18, "18 h"),  # three must be older than a day: 23.9, 20 and 6 hours
        ((0, 0, 0), 24, "24 h"),
        ((1, 23.995, 5), 0.005, "18 s"),
    ],
)
def test_a_refusal_states_when_the_next_round_is_allowed(ages: tuple[float, ...], hours: float, duration: str) -> None:
    before = {str(number): 3600.0 * age for number, age in enumerate(ages)}
    with pytest.raises(RetryLater, match=f"; the next one is allowed in {duration}$") as error:
        Policy(max_answers_per_day=3).check_request(order(), 1, before)
    assert error.value.retry_after == pytest.approx(3600 * hours)


@pytest.mark.parametrize(
    ("patterns", "who", "admitted"),
    [
        (("coordinator",), "coordinator", True),
        (("coordinator",), "coordinator2", False),
        (("coordinator",), "Coordinator", False),
        (("lab-*",), "lab-1", True),
        (("*",), "mallory", True),
        (("*",), "", False),
        (("",), "", False),
        ((), "coordinator", False),
    ],
)
def test_coordinators(patterns: tuple[str, ...], who: str, admitted: bool) -> None:
    """A coordinator without a certificate has no name, so no pattern matches it."""
    assert Policy(coordinators=patterns).allows_coordinator(who) is admitted
