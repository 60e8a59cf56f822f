"""The plan of a run that continues: where its nodes are now, and what may change."""

from typing import Any

import pytest

from fedws.continuing import going_on, merged
from fedws.errors import UsageError
from fedws.plan import make

JOINED = {"listen": "ws://l:1", "workers": {"alice": "ws://l:1", "bob": "ws://b:1"}, "evaluator": {"e": "ws://l:1"}}


@pytest.mark.parametrize(
    ("now", "listen", "workers", "evaluator"),
    [
        ({}, "ws://l:1", {"alice": "ws://l:1", "bob": "ws://b:1"}, {"e": "ws://l:1"}),
        ({"listen": "ws://m:2"}, "ws://m:2", {"alice": "ws://m:2", "bob": "ws://b:1"}, {"e": "ws://m:2"}),
        (
            {"listen": "ws://m:2", "expect": ["bob"], "workers": {"alice": "ws://a:1"}},
            "ws://m:2",
            {"alice": "ws://a:1", "bob": "ws://m:2"},
            {"e": "ws://m:2"},
        ),
        ({"expect": ["alice", "bob"]}, "ws://l:1", {"alice": "ws://l:1", "bob": "ws://l:1"}, {"e": "ws://l:1"}),
        ({"expect": ["alice"]}, "ws://l:1", {"alice": "ws://l:1", "bob": "ws://b:1"}, {"e": "ws://l:1"}),
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
    stored = make(JOINED)
    plan = going_on(stored, merged(stored.model_dump(), now), "--resume run")
    assert (plan.listen, plan.workers, plan.evaluator) == (listen, workers, evaluator)


def test_a_run_that_dialled_all_may_go_on_with_nodes_that_join() -> None:
    stored = make({})
    now = {"listen": "ws://l:1", "expect": ["alice", "bob"]}
    plan = going_on(stored, merged(stored.model_dump(), now), "--resume run")
    assert plan.workers == {**stored.workers, "alice": "ws://l:1", "bob": "ws://l:1"}
    assert plan.evaluator == stored.evaluator


def test_others_than_it_began_with_cannot_join_a_run_that_goes_on() -> None:
    stored = make(JOINED)
    with pytest.raises(
        UsageError, match=r"^--resume run: its workers stays what it is, alice, bob, not alice, bob, dora$"
    ):
        going_on(stored, merged(stored.model_dump(), {"expect": ["alice", "dora"]}), "--resume run")
