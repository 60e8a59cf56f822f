"""The plans of several strategies: as much work for each, and only the settings it has."""

from typing import Any

import pytest

from fedws.core.errors import UsageError
from fedws.simulation.fleet import name_workers
from fedws.simulation.plans import build_plans

SETTINGS = {"dataset": "digits", "model": "linear", "training_rounds": 20, "evaluate_every": 5}


def made(*strategies: str, workers: int = 30, present: float = 1.0, **settings: Any) -> Any:
    return build_plans(strategies, {**SETTINGS, **settings}, name_workers(workers), present)


def test_every_strategy_gets_the_same_number_of_reports() -> None:
    found = made("fedavg", "fedbuff:k=10", "fedasync", "fedbuff:k=7")
    assert [(plan.training_rounds, plan.evaluate_every) for plan in found] == [(20, 5), (60, 15), (600, 150), (86, 22)]


def test_a_cohort_is_what_counts() -> None:
    rounds, versions = made("fedavg", "fedasync", chooser="random:per_round=6")
    assert (rounds.training_rounds, rounds.chooser) == (20, "random:per_round=6")
    assert (versions.training_rounds, versions.chooser) == (120, "all")


def test_what_only_rounds_have_is_left_out_for_others() -> None:
    given: dict[str, Any] = {"quorum": 5, "deadline": 60.0, "over_select": 0.5, "chooser": "random:per_round=6"}
    rounds, versions = made("fedavg", "fedbuff", **given)
    assert {name: getattr(rounds, name) for name in given} == given
    assert (versions.quorum, versions.over_select) == (0, 0)


@pytest.mark.parametrize(
    ("settings", "quorum"),
    [({}, 22), ({"quorum": 30}, 30), ({"chooser": "random:per_round=6"}, 6), ({"chooser": "random:per_round=25"}, 22)],
)
def test_where_not_all_are_present_they_are_not_all_waited_for(settings: dict[str, Any], quorum: int) -> None:
    assert made("fedavg", present=0.75, **settings)[0].quorum == quorum


def test_a_quorum_is_at_least_one_and_all_when_all_are_present() -> None:
    assert made("fedavg", present=0.001)[0].quorum == 1
    assert made("fedavg")[0].quorum == 0


def test_nodes_are_in_memory_and_no_worker_is_scored() -> None:
    (plan,) = made("fedavg", workers=3)
    assert plan.workers == {"w1": "memory://w1", "w2": "memory://w2", "w3": "memory://w3"}
    assert plan.evaluator == {"testing": "memory://testing"}
    assert (plan.score_workers, plan.wait) == (0, "forever")


@pytest.mark.parametrize(
    ("strategies", "settings", "text"),
    [
        (("fedavg", "fedsgd", "fedavg"), {}, "--strategy fedavg is given twice"),
        (("fedavgg",), {}, "unknown strategy 'fedavgg': did you mean fedavg"),
        (("fedbuff:k=0",), {}, "strategy fedbuff: k: Input should be greater"),
        (("fedavg",), {"quorum": 31}, "--quorum 31 is above the number of workers, 30"),
        (("fedavg",), {"training_rounds": 0}, "training_rounds: Input should be greater"),
        (("fedavg",), {"model": "lineal"}, "unknown model 'lineal'"),
    ],
)
def test_what_does_not_fit_is_said(strategies: tuple[str, ...], settings: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        made(*strategies, **settings)
    assert str(caught.value).startswith(text)
