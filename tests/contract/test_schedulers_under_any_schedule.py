"""Every registered algorithm in random runs: each ends with a model, or with a reason that is true."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedws.core import registry
from fedws.core.tensors import find_mismatch, find_nonfinite
from fedws.scheduling.events import WorkerAvailable
from tests.helpers.adversary import World
from tests.helpers.contract_run import (
    CALM,
    WORKERS,
    Case,
    Run,
    bits,
    every,
    has_rounds,
    quick,
    told,
    undisturbed,
)
from tests.helpers.federation import registered
from tests.helpers.spoilt_results import SPOILS

FEW = ["answer", "answer", "refused", "spoil", "cut", "link", "deadline", "old deadline", "again", "probe", "crash"]
MOODS = {
    "any": ["answer", "answer", "failed", "rejected", *FEW],
    "late": ["retry_later", "retry_later", "retry_later", "available", "available", "cut", "link", "permanent", *FEW],
    "dying": ["cut", "link", "cut", "link", "cut", "link", "transfer_progressed", "link", *FEW],
    "cutting": ["transfer_interrupted", "link", "transfer_interrupted", "link", "transfer_interrupted", "link"],
    "rude": ["refused", "failed", "rejected", "spoil", "spoil", *FEW],
    "flaky": ["cut", "cut", "cut", "link", "link", "link", *FEW],
    "slow": ["answer", "answer", "answer", "answer", "deadline", "deadline", "deadline", *FEW],
}
"""What the adversary likes to do, each as often as it stands there."""


@pytest.fixture(autouse=True, scope="module")
def _points() -> Iterator[None]:
    with registered():
        yield


@st.composite
def scripts(draw: st.DrawFn) -> list[tuple[str, int, bool]]:
    """Moves, each with a number that says whose, and whether all is heard at once."""
    mood = draw(st.sampled_from(sorted(MOODS)))
    whose = st.sampled_from([0, 0, 0, 0, 1]) if mood in ("dying", "cutting", "late") else st.integers(0, 39)
    move = st.tuples(st.sampled_from(MOODS[mood]), whose, st.booleans())
    length = draw(st.integers(0, 60))
    return draw(st.lists(move, min_size=length, max_size=length))


@st.composite
def cases(draw: st.DrawFn, name: str) -> Case:
    """Any settings that a run may have."""
    workers, rounds = draw(st.integers(1, len(WORKERS))), draw(st.integers(1, 4))
    more: dict[str, Any] = {}
    size = workers
    if has_rounds(name) and draw(st.booleans()):
        chooser = draw(st.sampled_from([name for name in registry.list_pieces("sampler") if name != "all"]))
        size = draw(st.integers(1, workers))
        more = {"sampler": f"{chooser}:per_round={size}"}
        if size < workers:
            more["over_selection"] = draw(st.sampled_from([0.0, 0.3, 2.0]))
    return Case(name, workers, rounds, min_results=draw(st.integers(0, size)), **more)


@every
@settings(CALM, max_examples=100)
@given(data=st.data(), script=scripts())
def test_a_run_ends_under_any_schedule(name: str, data: st.DataObject, script: list[tuple[str, int, bool]]) -> None:
    """Whatever the adversary does, and whenever that is heard: with a model, or with a reason that is true."""
    case = data.draw(cases(name), "case")
    world = World(case, [worker for worker in case.workers if data.draw(st.booleans(), f"{worker} is there")])
    for move, number, now in script:
        if world.over:
            break
        orders, workers = list(world.given.values()), sorted(case.workers)
        order = orders[number % len(orders)] if orders else None
        worker = workers[number % len(workers)]
        match move:
            case "answer" if order:
                world.answer(order)
            case "refused" | "failed" | "rejected" if order:
                world.fail(order, move)
            case "spoil" if order:
                spoils = list(SPOILS.values())
                world.answer(order, spoils[number % len(spoils)](quick(order).tensors))
            case "permanent" | "retry_later" if order:
                world.fail(order, "refused", move)
            case "available" if worker in world.waiting:
                world.queue.append((WorkerAvailable(worker=worker), False))
            case "cut" | "transfer_progressed" | "transfer_interrupted" if worker in world.linked:
                world.cut(worker, "" if move == "cut" else move)
            case "link" if worker not in world.linked:
                world.link(worker)
            case "deadline":
                world.time_is_up(world.strategy.version(world.state))
            case "old deadline":
                world.time_is_up(world.strategy.version(world.state) - 1)
            case "again":
                world.repeat(number)
            case "probe":
                world.probe()
            case "crash":
                world.crash()
        while world.queue and now and not world.over:
            world.hear()
    world.fair()
    reason = world.strategy.failure(world.state)
    if reason:
        assert len(case.workers) - len(world.excluded) < world.strategy.min_results
        assert all(worker in reason for worker in world.excluded)
    else:
        assert find_mismatch(world.model, world.initial) == "" and find_nonfinite(world.model) == ""
        if case.whole:
            assert bits(world.model) == bits(undisturbed(case)), "no fault shows in the model"
    assert world.strategy.react(world.state, world.history[-1]) == (world.state, ())
    if not world.crashes:
        again = Run(case, sorted(world.first))
        for happened in world.history:
            again.take(happened)
        assert [told(order) for order in again.orders] == [told(order) for order in world.orders]
        assert bits(again.model) == bits(world.model)
