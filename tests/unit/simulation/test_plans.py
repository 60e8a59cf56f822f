"""The plans of several strategies: as much work for each, and only the settings it has."""

from typing import Any

import pytest

from fedws.core.errors import UsageError
from fedws.simulation.fleet import name_workers
from fedws.simulation.plans import build_plans

SETTINGS = {"dataset": "digits", "model": "linear", "rounds": 20, "evaluate_every": 5}


def made(*strategies: str, workers: int = 30, present: float = 1.0, **settings: Any) -> Any:
    return build_plans(strategies, {**SETTINGS, **settings}, name_workers(workers), present)


def test_every_strategy_gets_the_same_number_of_reports() -> None:
    found = made("fedavg", "fedbuff:buffer_size=10", "fedasync", "fedbuff:buffer_size=7")
    assert [(plan.rounds, plan.evaluate_every) for plan in found] == [(20, 5), (60, 15), (600, 150), (86, 22)]


def test_a_cohort_is_what_counts() -> None:
    rounds, versions = made("fedavg", "fedasync", sampler="random:per_round=6")
    assert (rounds.rounds, rounds.sampler) == (20, "random:per_round=6")
    assert (versions.rounds, versions.sampler) == (120, "all")


def test_what_only_rounds_have_is_left_out_for_others() -> None:
    given: dict[str, Any] = {
        "min_results": 5,
        "round_timeout": 60.0,
        "over_selection": 0.5,
        "sampler": "random:per_round=6",
    }
    rounds, versions = made("fedavg", "fedbuff", **given)
    assert {name: getattr(rounds, name) for name in given} == given
    assert (versions.min_results, versions.over_selection) == (0, 0)


@pytest.mark.parametrize(
    ("settings", "quorum"),
    [
        ({}, 22),
        ({"min_results": 30}, 30),
        ({"sampler": "random:per_round=6"}, 6),
        ({"sampler": "random:per_round=25"}, 22),
    ],
)
def test_where_not_all_are_present_they_are_not_all_waited_for(settings: dict[str, Any], quorum: int) -> None:
    assert made("fedavg", present=0.75, **settings)[0].min_results == quorum


def test_a_quorum_is_at_least_one_and_all_when_all_are_present() -> None:
    assert made("fedavg", present=0.001)[0].min_results == 1
    assert made("fedavg")[0].min_results == 0


def test_nodes_are_in_memory_and_no_worker_is_scored() -> None:
    (plan,) = made("fedavg", workers=3)
    assert plan.workers == {"w1": "memory://w1", "w2": "memory://w2", "w3": "memory://w3"}
    assert plan.evaluator == {"testing": "memory://testing"}
    assert (plan.evaluate_worker_models, plan.wait_for_workers) == (0, "forever")


@pytest.mark.parametrize(
    ("strategies", "settings", "text"),
    [
        (("fedavg", "fedsgd", "fedavg"), {}, "--algorithm fedavg is given more than once; remove the duplicate"),
        (("fedavgg",), {}, "unknown algorithm 'fedavgg'; did you mean 'fedavg'"),
        (("fedbuff:buffer_size=0",), {}, "algorithm fedbuff: buffer_size: Input should be greater"),
        (("fedavg",), {"min_results": 31}, "--min-results 31 exceeds the number of workers, 30"),
        (("fedavg",), {"rounds": 0}, "rounds: Input should be greater"),
        (("fedavg",), {"model": "lineal"}, "unknown model 'lineal'"),
    ],
)
def test_what_does_not_fit_is_said(strategies: tuple[str, ...], settings: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        made(*strategies, **settings)
    assert str(caught.value).startswith(text)
