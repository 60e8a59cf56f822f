"""Failures count as docs/topics/protocol.md describes: findings 12 and 22 of an independent worker."""

import re

import pytest

from fedws.coordinator.open_requests import MAX_RETRY_AFTER_SECONDS, MIN_RETRY_AFTER_SECONDS
from fedws.protocol.messages import FailureCode, FailureKind, TaskFailure, TaskResult
from fedws.scheduling import participants
from fedws.scheduling.base import TaskSpec
from fedws.scheduling.events import WorkerAvailable, WorkerConnected
from fedws.scheduling.lost_request_count import MAX_CONSECUTIVE_LOSSES, MAX_CONSECUTIVE_TRANSFER_LOSSES
from fedws.scheduling.participants import Participants, find_exclusions
from tests.helpers.protocol_page import section, table

WORDS = " ".join(section("Failures").split())
COUNTS = {row["event"]: row["count"] for row in table(section("Failures"), "event")}


class Run:
    """A worker that gets the same request again after each failure."""

    def __init__(self) -> None:
        self.state = Participants.from_workers(["alice"], ["alice"])

    def fail(self, kind: FailureKind, code: FailureCode = "", round_number: int = 1) -> None:
        self.state, _ = self.state.apply(WorkerAvailable(worker="alice"))
        self.state, _ = self.state.apply(WorkerConnected(worker="alice", num_examples=3))
        self.state, request = self.state.create_request("alice", round_number, 0, 1, TaskSpec("t.do", {}, {}))
        self.state, _ = self.state.apply(
            TaskFailure(
                request_id=request.request_id, worker="alice", round=round_number, kind=kind, reason="x", code=code
            )
        )

    def succeed(self) -> None:
        self.state = self.state.accept(TaskResult(request_id="1", worker="alice", round=1, num_examples=3))

    @property
    def failures(self) -> int:
        return self.state.members["alice"].consecutive_failures

    @property
    def is_excluded(self) -> bool:
        return "alice" in find_exclusions(self.state)


def count_of(beginning: str) -> str:
    (found,) = (count for event, count in COUNTS.items() if event.startswith(beginning))
    return found


def test_a_permanent_refusal_excludes_at_once() -> None:
    """Finding 12."""
    run = Run()
    run.fail("refused", "permanent")
    assert run.is_excluded and count_of("`refused` with `permanent`") == "the node is excluded at once"


@pytest.mark.parametrize("kind", ["failed", "refused", "rejected"])
def test_three_failures_in_a_row_exclude(kind: FailureKind) -> None:
    """Finding 12."""
    run = Run()
    for _ in range(2):
        run.fail(kind)
    run.succeed()
    assert not run.failures
    for number in range(3):
        assert not run.is_excluded
        run.fail(kind, round_number=1 + number)
    assert run.is_excluded
    assert "Three failures in a row exclude a node for the rest of the run. A valid result resets all counts." in WORDS
    assert participants.MAX_CONSECUTIVE_FAILURES == 3


def test_the_third_postponement_in_a_row_is_a_failure() -> None:
    """Finding 12."""
    run = Run()
    found = []
    for _ in range(6):
        run.fail("refused", "retry_later")
        found.append(run.failures)
    assert found == [0, 0, 1, 1, 1, 2]
    again = Run()
    for round_number in (1, 1, 2, 2):
        again.fail("refused", "retry_later", round_number)
    assert not again.failures, "another round starts the count again"
    text = count_of("`refused` with `retry_later`")
    assert "no failure; the third in a row in the same round is one failure" in text
    assert f"at least {MIN_RETRY_AFTER_SECONDS:g} s and at most {MAX_RETRY_AFTER_SECONDS / 3600:g} hours" in text


@pytest.mark.parametrize(
    ("event", "code", "times"),
    [
        ("the link is lost while the node has the request", "", MAX_CONSECUTIVE_LOSSES),
        ("the link is lost while the request or its answer", "transfer_interrupted", MAX_CONSECUTIVE_TRANSFER_LOSSES),
    ],
)
def test_losses_in_a_row_with_the_same_request_are_a_failure(event: str, code: FailureCode, times: int) -> None:
    """Finding 22: a node that closes the link at every request is not tried without limit."""
    run = Run()
    for number in range(3 * times):
        assert not run.is_excluded and run.failures == number // times
        run.fail("lost", code)
    assert run.is_excluded
    (ordinal,) = re.findall(r"no failure; the (\w+) ", count_of(event))
    assert {"third": 3, "tenth": 10}[ordinal] == times
    assert "is therefore excluded after nine connections" in WORDS and MAX_CONSECUTIVE_LOSSES == 3


def test_a_loss_after_progress_starts_both_counts_again() -> None:
    """Finding 22."""
    run = Run()
    for _ in range(5):
        for code in ("", "", "transfer_interrupted", "transfer_progressed"):
            run.fail("lost", code)
    assert not run.failures
    assert count_of("the link is lost after a body got further") == "no failure; both counts of losses start again"


def test_a_new_round_starts_the_counts_of_losses_again() -> None:
    """Finding 22."""
    run = Run()
    for round_number in (1, 1, 2, 2, 3, 3):
        run.fail("lost", round_number=round_number)
    assert not run.failures
    assert "The counts of losses start again with each new round" in WORDS
