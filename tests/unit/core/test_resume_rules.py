"""The plan of a run that continues: where its nodes are now, and what may change."""

from typing import Any

import pytest

from fedws.core.errors import UsageError
from fedws.core.plan import Plan, build_plan
from fedws.core.resume_rules import merge_settings, resume_plan

JOINED = {"listen": "ws://l:1", "workers": {"alice": "ws://l:1", "bob": "ws://b:1"}, "evaluator": {"e": "ws://l:1"}}


@pytest.mark.parametrize(
    ("now", "listen", "workers", "evaluator"),
    [
        ({}, "ws://l:1", {"alice": "ws://l:1", "bob": "ws://b:1"}, {"e": "ws://l:1"}),
        ({"listen": "ws://m:2"}, "ws://m:2", {"alice": "ws://m:2", "bob": "ws://b:1"}, {"e": "ws://m:2"}),
        (
            {"listen": "ws://m:2", "expect_workers": ["bob"], "workers": {"alice": "ws://a:1"}},
            "ws://m:2",
            {"alice": "ws://a:1", "bob": "ws://m:2"},
            {"e": "ws://m:2"},
        ),
        ({"expect_workers": ["alice", "bob"]}, "ws://l:1", {"alice": "ws://l:1", "bob": "ws://l:1"}, {"e": "ws://l:1"}),
        ({"expect_workers": ["alice"]}, "ws://l:1", {"alice": "ws://l:1", "bob": "ws://b:1"}, {"e": "ws://l:1"}),
        ({"evaluator": {"e": "ws://e:1"}}, "ws://l:1", {"alice": "ws://l:1", "bob": "ws://b:1"}, {"e": "ws://e:1"}),
        (
            {"workers": {"alice": "ws://a:1", "bob": "ws://b:2"}, "evaluator": {"e": "ws://e:1"}},
            "",
            {"alice": "ws://a:1", "bob": "ws://b:2"},
            {"e": "ws://e:1"},
        ),
        (
            {"workers": {"alice": "ws://a:1", "bob": "ws://b:2"}, "evaluator": "e"},
            "ws://l:1",
            {"alice": "ws://a:1", "bob": "ws://b:2"},
            {"e": "ws://l:1"},
        ),
    ],
    ids=[
        "nothing",
        "another place",
        "another node",
        "one more",
        "as before",
        "an evaluator",
        "all are dialled",
        "an evaluator's name",
    ],
)
def test_a_run_goes_on_wherever_its_nodes_are_now(
    now: dict[str, Any], listen: str, workers: dict[str, str], evaluator: dict[str, str]
) -> None:
    stored = build_plan(JOINED)
    plan = resume_plan(stored, merge_settings(stored.model_dump(), now), "--resume run")
    assert (plan.listen, plan.workers, plan.evaluator) == (listen, workers, evaluator)


def test_a_run_that_dialled_all_may_go_on_with_nodes_that_join() -> None:
    stored = build_plan({})
    now = {"listen": "ws://l:1", "expect_workers": ["alice", "bob"]}
    plan = resume_plan(stored, merge_settings(stored.model_dump(), now), "--resume run")
    assert plan.workers == {**stored.workers, "alice": "ws://l:1", "bob": "ws://l:1"}
    assert plan.evaluator == stored.evaluator


def going(now: dict[str, Any]) -> Plan:
    stored = build_plan(JOINED)
    return resume_plan(stored, merge_settings(stored.model_dump(), now), "--resume run")


def test_workers_that_are_added_come_last_and_the_others_keep_their_order() -> None:
    """Whatever the order in which they are named now."""
    assert list(going({"expect_workers": ["dora", "bob", "alice"]}).workers) == ["alice", "bob", "dora"]
    named = {"dora": "ws://d:1", "bob": "ws://b:1", "alice": "ws://l:1"}
    assert going({"workers": named}).workers == named
    assert list(going({"workers": named}).workers) == ["alice", "bob", "dora"]
    assert list(going({"workers": {"dora": "ws://d:1", "bob": "ws://b:1"}}).workers) == ["bob", "dora"]


def test_a_plan_must_hold_with_the_workers_that_it_has_now() -> None:
    with pytest.raises(UsageError, match=r"^--min-results 2 exceeds the number of workers, 1$"):
        resume_plan(build_plan({**JOINED, "min_results": 2}), {"workers": {"bob": "ws://b:1"}}, "--resume run")


@pytest.mark.parametrize(
    ("now", "text"),
    [
        ({"lr": 0.5}, "cannot change lr from 0.1 to 0.5"),
        ({"min_results": 1}, "cannot change min_results from 0 to 1"),
        ({"initial_model": "m"}, "cannot change initial_model from '' to 'm'"),
        ({"evaluator": {}}, "cannot change evaluator from e to none"),
    ],
)
def test_what_shows_in_the_result_stays(now: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        going(now)
    assert str(caught.value) == f"--resume run: {text}"


def test_a_run_may_have_more_or_fewer_rounds() -> None:
    assert [going({"rounds": rounds}).rounds for rounds in (1, 40, 80)] == [1, 40, 80]
