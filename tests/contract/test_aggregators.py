"""Every registered aggregator: one set of tensors from many, whatever the order, and no report is harmed."""

import itertools
from typing import Any

import pytest
import torch

from fedws.core import registry
from fedws.core.errors import RejectedUpdate
from fedws.core.tensors import Tensors, find_mismatch
from fedws.protocol.messages import TaskResult
from fedws.updates.base import Aggregator

every = pytest.mark.parametrize("name", registry.list_pieces("aggregator"))


def report(number: int, tensors: Tensors | None = None) -> TaskResult:
    """The report of a worker; its tensors differ from all others'."""
    random = torch.Generator().manual_seed(number)
    found = {
        "w": torch.randn(3, 2, generator=random),
        "half": torch.randn(4, generator=random).half(),
        "scalar": torch.randn((), generator=random).double(),
        "empty": torch.zeros(0, 3),
        "count": torch.tensor(number),
        "flag": torch.tensor([number % 2 == 0]),
    }
    return TaskResult(
        request_id=f"1/{number}",
        worker=str(number),
        round=1,
        num_examples=10 + number,
        tensors=found if tensors is None else tensors,
    )


def result(name: str, reports: list[TaskResult]) -> Tensors:
    aggregator: Aggregator[Any] = registry.build_piece("aggregator", name)
    state = aggregator.init()
    for one in reports:
        state = aggregator.accumulate(state, one)
    return aggregator.finalize(state)


def bits(tensors: Tensors) -> dict[str, tuple[Any, ...]]:
    return {name: (tensor.dtype, tensor.shape, tensor.tolist()) for name, tensor in tensors.items()}


@every
def test_equal_reports_make_their_equal(name: str) -> None:
    one = report(1)
    for count in (1, 2, 3, 7):
        assert bits(result(name, [one] * count)) == bits(one.tensors)


@every
def test_the_result_is_like_the_reports_and_between_them(name: str) -> None:
    reports = [report(number) for number in range(5)]
    found = result(name, reports)
    assert find_mismatch(found, reports[0].tensors) == "" and list(found) == list(reports[0].tensors)
    for key, value in found.items():
        values = torch.stack([one.tensors[key] for one in reports])
        assert bool((value >= values.amin(0)).all() and (value <= values.amax(0)).all()), key


@every
def test_the_order_of_arrival_does_not_show(name: str) -> None:
    reports = [report(number) for number in range(4)]
    wanted = bits(result(name, reports))
    for order in itertools.permutations(reports):
        assert bits(result(name, list(order))) == wanted


@every
def test_reports_are_neither_changed_nor_part_of_the_result(name: str) -> None:
    reports = [report(number) for number in range(3)]
    before = [bits(one.tensors) for one in reports]
    found = result(name, reports)
    assert [bits(one.tensors) for one in reports] == before
    for tensor in found.values():
        tensor.zero_()
    assert [bits(one.tensors) for one in reports] == before


@every
def test_the_result_may_be_taken_twice(name: str) -> None:
    aggregator: Aggregator[Any] = registry.build_piece("aggregator", name)
    state = aggregator.accumulate(aggregator.accumulate(aggregator.init(), report(1)), report(2))
    one = aggregator.finalize(state)
    kept = bits(one)
    for tensor in one.values():
        tensor.zero_()
    assert bits(aggregator.finalize(state)) == kept


@every
@pytest.mark.parametrize("spoilt", ["missing", "more", "shape", "dtype", "none"])
def test_what_does_not_fit_is_rejected_in_one_line_and_the_rest_goes_on(name: str, spoilt: str) -> None:
    aggregator: Aggregator[Any] = registry.build_piece("aggregator", name)
    good = dict(report(9).tensors)
    wrong = {
        "missing": {key: tensor for key, tensor in good.items() if key != "scalar"},
        "more": {**good, "more": torch.ones(1)},
        "shape": {**good, "w": torch.ones(2, 3)},
        "dtype": {**good, "half": torch.ones(4)},
        "none": {},
    }[spoilt]
    state = aggregator.accumulate(aggregator.init(), report(1))
    with pytest.raises(RejectedUpdate) as caught:
        aggregator.accumulate(state, report(9, wrong))
    assert str(caught.value) and "\n" not in str(caught.value)
    state = aggregator.accumulate(state, report(2))
    assert bits(aggregator.finalize(state)) == bits(result(name, [report(1), report(2)]))


@every
def test_two_rounds_do_not_mix(name: str) -> None:
    aggregator: Aggregator[Any] = registry.build_piece("aggregator", name)
    one, other = (
        aggregator.accumulate(aggregator.init(), report(1)),
        aggregator.accumulate(aggregator.init(), report(2)),
    )
    assert bits(aggregator.finalize(one)) == bits(report(1).tensors)
    assert bits(aggregator.finalize(other)) == bits(report(2).tensors)
