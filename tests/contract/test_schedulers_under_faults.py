"""Every registered algorithm in a run with faults: failures, lost workers, unfit results and stored states."""

import copy
import dataclasses
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedws.core.tensors import find_mismatch, find_nonfinite
from fedws.scheduling.events import Event, RoundTimeout, WorkerAvailable, WorkerConnected, WorkerDisconnected
from tests.helpers.contract_run import (
    CALM,
    Case,
    Kind,
    Run,
    bits,
    every,
    every_way,
    failed,
    quick,
    told,
    undisturbed,
)
from tests.helpers.federation import registered
from tests.helpers.spoilt_results import SPOILS


@pytest.fixture(autouse=True, scope="module")
def _points() -> Iterator[None]:
    with registered():
        yield


@every_way
@pytest.mark.parametrize("kind", ["refused", "failed", "rejected"])
def test_when_all_fail_the_run_ends_with_a_reason(case: Case, kind: Kind) -> None:
    run = Run(case)
    while run.open:
        run.take(failed(next(iter(run.open.values())), kind))
    reason = run.strategy.failure(run.state)
    assert len(run.excluded) == len(case.workers) - run.strategy.min_results + 1
    assert all(f"{worker}: " in reason for worker in run.excluded) and reason.count("the cable was cut") >= 1
    assert bits(run.model) == bits(run.initial)
    assert run.strategy.react(run.state, WorkerConnected(worker="alice")) == (run.state, ())


@every
def test_who_is_lost_is_waited_for_and_asked_for_the_same_again(name: str) -> None:
    run = Run(Case(name))
    first = run.open["1/bob"]
    run.take(failed(first, "lost"))
    run.take(WorkerDisconnected(worker="bob", reason="the cable was cut"))
    assert "bob" not in {order.worker for order in run.open.values()}
    assert list(run.strategy.waiting_for(run.state)) == (["bob"] if run.case.whole else [])
    (again,) = run.take(WorkerConnected(worker="bob"))
    assert (
        told(dataclasses.replace(again, request_id=first.request_id)) == told(first)
        and again.request_id != first.request_id
    )
    assert run.strategy.waiting_for(run.state) == ()
    assert run.finish(Random(1), quick).ended and not run.excluded


def loses(run: Run, code: str = "") -> None:
    """The link of alice is lost while she has a request, and comes back."""
    (order,) = run.open.values()
    run.take(failed(order, "lost", code=code))
    run.take(WorkerDisconnected(worker="alice", reason="the cable was cut"))
    run.take(WorkerConnected(worker="alice"))


@every
def test_a_worker_that_is_lost_with_each_request_is_excluded(name: str) -> None:
    """One that dies of it, as of a lack of memory, would be asked for ever."""
    run = Run(Case(name, 1))
    task, losses = next(iter(run.open.values())).task, 0
    while run.open:
        loses(run)
        losses += 1
    why = f"alice: failed: lost 3 times while it ran {task} (out of memory?), three times in a row"
    assert losses == 9 and why in run.strategy.failure(run.state)


@every
def test_a_worker_whose_transfers_progress_is_asked_as_often_as_it_joins(name: str) -> None:
    run = Run(Case(name, 1))
    for _ in range(30):
        loses(run, "transfer_progressed")
    assert run.finish(Random(1), quick).ended and not run.excluded


@every
def test_a_permanent_refusal_excludes_at_once(name: str) -> None:
    run = Run(Case(name, min_results=2))
    run.take(failed(run.open["1/bob"], "refused", code="permanent"))
    assert run.excluded == {"bob"} and run.finish(Random(1), quick).ended
    assert sum(order.worker == "bob" for order in run.orders) == 1
    run = Run(Case(name))
    run.take(failed(run.open["1/bob"], "refused", code="permanent"))
    if run.case.whole:
        assert "bob: refused the request: the cable was cut" in run.strategy.failure(run.state)


@every
def test_a_refusal_until_later_is_waited_for(name: str) -> None:
    run = Run(Case(name))
    run.take(failed(run.open["1/bob"], "refused", code="retry_later"))
    run.finish(Random(1), quick)
    if not run.ended:
        (again,) = run.take(WorkerAvailable(worker="bob"))
        assert again.worker == "bob" and run.finish(Random(1), quick).ended
    assert not run.excluded


@every
@pytest.mark.parametrize("spoilt", SPOILS)
@pytest.mark.parametrize("who", ["alice", "charlie"])
def test_tensors_that_do_not_fit_are_rejected_and_their_sender_in_the_end(name: str, spoilt: str, who: str) -> None:
    """Whether its report comes first or last. With min_results those who are left the run is theirs."""
    for quorum in (0, 2):
        run = Run(Case(name, min_results=quorum))
        while run.open:
            order = run.open[min(run.open)]
            report = quick(order)
            if order.worker == who:
                report = dataclasses.replace(report, tensors=SPOILS[spoilt](report.tensors))
            run.take(report)
        assert run.excluded == {who} or (run.ended and not run.excluded), "it may end before the third"
        if run.case.whole:
            reason = run.strategy.failure(run.state)
            assert f"{who}: sent a result that was rejected: " in reason and "three times in a row" in reason
            assert run.strategy.version(run.state) == 0
        else:
            assert run.ended and find_nonfinite(run.model) == ""


@every_way
def test_answers_nobody_asked_for_change_nothing(case: Case) -> None:
    run = Run(case)
    first = quick(run.orders[0])
    run.take(first)
    foreign = dataclasses.replace(first, request_id="0/mallory")
    thief = dataclasses.replace(quick(run.orders[1]), worker=first.worker)
    again = [failed(run.orders[0]), failed(run.orders[0], "lost")]
    events: list[Event] = [first, foreign, thief, *again, WorkerConnected(worker="mallory")]
    for found in events:
        assert run.strategy.react(run.state, found) == (run.state, ())
    run.finish(Random(1), quick)
    later: list[Event] = [first, WorkerConnected(worker="alice"), RoundTimeout(version=run.strategy.version(run.state))]
    for found in later:
        assert run.strategy.react(run.state, found) == (run.state, ())


@every_way
@CALM
@given(random=st.randoms(use_true_random=False), answers=st.integers(0, 8))
def test_a_run_that_goes_on_from_a_stored_state_asks_the_same_again(case: Case, random: Random, answers: int) -> None:
    run = Run(case)
    for _ in range(answers):
        if run.open and not run.over:
            run.take(quick(run.open[random.choice(sorted(run.open))]))
    stored, before = copy.deepcopy(run.state), run.open
    orders = run.resume(stored, case.workers)
    if run.over:
        return
    assert {order.request_id for order in orders}.isdisjoint(before)
    seeds = {order.seed for order in orders}
    assert {order.seed for order in before.values() if order.round > run.strategy.version(stored)} <= seeds
    run.finish(random, quick)
    assert run.ended and find_mismatch(run.model, run.initial) == ""
    if case.whole:
        assert bits(run.model) == bits(undisturbed(case))
