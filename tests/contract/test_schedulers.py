"""Every registered algorithm in a run without faults: a pure machine that ends with a model."""

import copy
import dataclasses
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedws.core.tensors import Tensors, find_mismatch, find_nonfinite
from tests.helpers.contract_run import CALM, Case, Run, answer, bits, by_the_book, every_way, failed, has_rounds, told
from tests.helpers.federation import registered


@pytest.fixture(autouse=True, scope="module")
def _points() -> Iterator[None]:
    with registered():
        yield


@every_way
@CALM
@given(random=st.randoms(use_true_random=False))
def test_it_ends_with_a_model_however_the_answers_come(case: Case, random: Random) -> None:
    run = Run(case).finish(random)
    assert run.ended and not run.excluded
    assert find_mismatch(run.model, run.initial) == "" and find_nonfinite(run.model) == ""
    assert any(not torch.equal(run.model[key], run.initial[key]) for key in run.model), "it has learnt something"
    if case.whole:
        assert bits(run.model) == bits(by_the_book(case))
    if "sampler" not in case.more:
        assert {order.worker for order in run.orders} == set(case.workers)


@every_way
def test_the_seed_decides_all_and_the_global_generator_nothing(case: Case) -> None:
    torch.manual_seed(1)
    one = Run(case).finish(Random(1)).model
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert bits(Run(case).finish(Random(1)).model) == bits(one)
    assert torch.equal(torch.get_rng_state(), before)
    assert bits(Run(Case(case.name, seed=2, **case.more)).finish(Random(1)).model) != bits(one)


@every_way
def test_every_order_has_a_seed_of_its_own(case: Case) -> None:
    run = Run(case).finish(Random(1))
    assert len({order.seed for order in run.orders}) == len(run.orders)


@every_way
def test_an_order_names_the_last_round_whose_report_was_taken(case: Case) -> None:
    """What a worker keeps for itself between rounds begins there."""
    run, taken = Run(case), dict.fromkeys(case.workers, 0)
    while run.open:
        order = run.open[min(run.open)]
        assert order.state_round == taken[order.worker] < order.round
        late = has_rounds(case.name) and order.round <= run.strategy.version(run.state)
        if not late:
            taken[order.worker] = order.round
        run.take(answer(order))


@every_way
def test_what_it_is_given_is_not_changed(case: Case) -> None:
    run = Run(case)
    kept: list[tuple[Tensors, dict[str, tuple[Any, ...]]]] = [(run.initial, bits(run.initial))]
    random = Random(1)
    while run.open:
        chosen = run.open[random.choice(sorted(run.open))]
        found = answer(chosen)
        kept += [(chosen.tensors, bits(chosen.tensors)), (found.tensors, bits(found.tensors))]
        model = run.strategy.worker_model(run.state, found)
        assert model is None or find_mismatch(model, run.initial) == ""
        run.take(found)
        kept.append((run.model, bits(run.model)))
    assert all(bits(tensors) == before for tensors, before in kept)


@every_way
def test_the_same_state_and_event_give_the_same_again(case: Case) -> None:
    """A state may be used up by reacting, as the mean's sum is; a copy of it gives the same."""
    run = Run(case)
    while run.open:
        found = answer(next(iter(run.open.values())))
        copied = copy.deepcopy(run.state)
        orders = run.take(found)
        state, others = run.strategy.react(copied, found)
        assert [told(order) for order in others] == [told(order) for order in orders]
        assert bits(run.strategy.model(state)) == bits(run.model)
        assert run.strategy.version(state) == run.strategy.version(run.state)
    one, other = (Run(case) for _ in range(2))
    assert [told(order) for order in one.orders] == [told(order) for order in other.orders]


@every_way
def test_its_state_is_a_frozen_dataclass_of_plain_things(case: Case) -> None:
    run = Run(case)
    while run.open:
        plain(run.state)
        order = next(iter(run.open.values()))
        run.take(failed(order) if len(run.orders) % 4 == 1 else answer(order))
    plain(run.state)


def plain(value: Any) -> None:
    """Frozen dataclasses, tensors, numbers, strings, and lists and dicts of these: what can be stored generically."""
    if dataclasses.is_dataclass(value):
        assert value.__dataclass_params__.frozen, f"{type(value).__name__} is not frozen"  # type: ignore[union-attr]
        for field in dataclasses.fields(value):
            plain(getattr(value, field.name))
    elif isinstance(value, dict):
        for key, inner in value.items():
            assert isinstance(key, str)
            plain(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            plain(inner)
    else:
        assert isinstance(value, torch.Tensor | str | int | float | bool | None), type(value)
