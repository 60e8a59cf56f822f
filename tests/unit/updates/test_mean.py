import itertools
from collections.abc import Callable
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedws.core import registry
from fedws.core.errors import RejectedUpdate
from fedws.core.tensors import Tensors, find_mismatch
from fedws.protocol.messages import TaskResult
from fedws.updates import weighted_mean
from fedws.updates.aggregators.mean import MeanAccumulator, MeanAggregator

UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)
CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def report(samples: int = 1, tensors: Tensors | None = None, **named: torch.Tensor) -> TaskResult:
    return TaskResult(
        request_id="1/alice", worker="alice", round=1, num_examples=samples, tensors={**(tensors or {}), **named}
    )


def added(aggregator: MeanAggregator, reports: list[TaskResult]) -> MeanAccumulator:
    state = aggregator.init()
    for one in reports:
        state = aggregator.accumulate(state, one)
    return state


def result(reports: list[TaskResult], weighted: bool = False) -> Tensors:
    aggregator = MeanAggregator(weight_by_samples=weighted)
    return aggregator.finalize(added(aggregator, reports))


# What weights of networks are: float32, multiples of 2**-33; eight of them, times 60,000, add up exactly in float64.
_weights = st.floats(2**-10, 2.0, width=32) | st.floats(-2.0, -(2**-10), width=32) | st.just(0.0)


@st.composite
def _reports(draw: st.DrawFn) -> list[TaskResult]:
    shape = draw(arrays.array_shapes(max_dims=3, max_side=4))
    arrived = draw(
        st.lists(
            st.tuples(arrays.arrays(np.float32, shape, elements=_weights), st.integers(1, 60_000)),
            min_size=1,
            max_size=8,
        )
    )
    return [
        report(samples, w=torch.from_numpy(array), n=torch.tensor(samples % 7), b=torch.tensor(samples % 2 == 0))
        for array, samples in arrived
    ]


def bits(tensors: Tensors) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


@CALM
@given(_reports(), st.booleans(), st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_show(reports: list[TaskResult], weighted: bool, random: Random) -> None:
    shuffled = list(reports)
    random.shuffle(shuffled)
    assert bits(result(shuffled, weighted)) == bits(result(reports, weighted))


@CALM
@given(_reports(), st.booleans())
def test_the_mean_is_that_of_numpy_in_float64(reports: list[TaskResult], weighted: bool) -> None:
    weights = [one.num_examples if weighted else 1 for one in reports]
    stacked = np.stack([one.tensors["w"].numpy().astype(np.float64) for one in reports])
    wanted = np.average(stacked, axis=0, weights=weights)
    found = result(reports, weighted)["w"]
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy(), wanted.astype(np.float32))


@CALM
@given(_reports(), st.booleans())
def test_whole_numbers_and_flags_take_the_maximum(reports: list[TaskResult], weighted: bool) -> None:
    found = result(reports, weighted)
    assert found["n"].dtype == torch.int64 and int(found["n"]) == max(one.num_examples % 7 for one in reports)
    assert found["b"].dtype == torch.bool and bool(found["b"]) == any(one.num_examples % 2 == 0 for one in reports)


def test_the_order_of_arrival_shows_in_float32_sums() -> None:
    """That the property above can fail: these three do differ when float32 adds them."""
    values = [torch.tensor(value) for value in (1.0, 2.0**-24, 2.0**-24)]
    assert (values[0] + values[1]) + values[2] != values[0] + (values[1] + values[2])
    found = {float(result([report(w=value) for value in order])["w"]) for order in itertools.permutations(values)}
    assert found == {float(np.float32((1 + 2.0**-23) / 3))}


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, *UNSIGNED])
def test_the_largest_of_any_whole_numbers_is_exact(dtype: torch.dtype) -> None:
    most = torch.iinfo(dtype).max
    found = result([report(w=torch.tensor([value, most - 1 - value], dtype=dtype)) for value in (0, most - 1)])
    assert found["w"].dtype == dtype and found["w"].tolist() == [most - 1, most - 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_mean_is_rounded_once_to_the_dtype_of_the_reports(dtype: torch.dtype) -> None:
    values = torch.tensor([[1.0, 3e4, 0.1], [2.0, 3e4, 0.2], [4.0, 3e4, 0.7]]).to(dtype)
    found = result([report(w=row) for row in values])["w"]
    assert found.dtype == dtype
    assert torch.equal(found, (values.double().sum(0) / 3).to(dtype)) and torch.isfinite(found).all()


def test_a_weight_counts_as_so_many_reports() -> None:
    one, other = torch.tensor([0.1, 0.7]), torch.tensor([0.3, -0.2])
    weighted = result([report(3, w=one), report(2, w=other)], weighted=True)
    repeated = result([report(w=value) for value in (one, one, one, other, other)])
    assert torch.equal(weighted["w"], repeated["w"])
    assert torch.equal(
        result([report(3, w=one), report(2, w=other)])["w"], ((one.double() + other.double()) / 2).float()
    )


def test_a_single_report_is_its_own_mean() -> None:
    tensors = {"w": torch.randn(5, 3), "n": torch.tensor(7), "h": torch.randn(4).half(), "e": torch.zeros(0, 3)}
    for weighted in (False, True):
        found = result([report(7, tensors)], weighted)
        assert list(found) == list(tensors) and find_mismatch(found, tensors) == ""
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("off", [-1, 0, 1])
@pytest.mark.parametrize("chunks", [1, 2])
def test_sizes_at_the_edge_of_a_chunk(monkeypatch: pytest.MonkeyPatch, off: int, chunks: int) -> None:
    monkeypatch.setattr(weighted_mean, "_CHUNK_ELEMENTS", 8)
    rows = [torch.arange(8 * chunks + off, dtype=torch.float32) * factor for factor in (1, 2, 6)]
    found = result([report(w=row, n=row.long()) for row in rows])
    assert torch.equal(found["w"], rows[0] * 3) and torch.equal(found["n"], rows[2].long())


def test_a_tensor_larger_than_a_real_chunk() -> None:
    one = torch.randn(weighted_mean._CHUNK_ELEMENTS + 3)
    assert torch.equal(
        result([report(w=one), report(w=-one), report(w=3 * one)])["w"], ((3 * one).double() / 3).float()
    )


LAYOUTS: list[Callable[[torch.Tensor], torch.Tensor]] = [
    lambda tensor: tensor,
    lambda tensor: tensor.t().contiguous().t(),
    lambda tensor: torch.stack([tensor, tensor], dim=2)[:, :, 1],
    lambda tensor: torch.cat([tensor, tensor])[: len(tensor)],
]


@pytest.mark.parametrize("pair", list(itertools.product(range(len(LAYOUTS)), repeat=2)), ids=str)
def test_how_a_tensor_lies_in_memory_makes_no_difference(pair: tuple[int, int]) -> None:
    one, other = torch.arange(6.0).reshape(2, 3), torch.full((2, 3), 2.0)
    laid = [report(w=LAYOUTS[which](tensor), n=LAYOUTS[which](tensor.long()))
            for which, tensor in zip(pair, (one, other), strict=True)]  # fmt: skip
    found = result(laid)
    assert torch.equal(found["w"], (one + other) / 2)
    assert torch.equal(found["n"], torch.maximum(one, other).long())


# --------------------------------------------------------------------------- what does not fit


GOOD = {"w": torch.ones(2, 2), "n": torch.tensor(1)}
FOREIGN = [
    ({"w": torch.ones(2, 2)}, "n is missing"),
    ({**GOOD, "x": torch.ones(1)}, "unexpected tensor 'x'"),
    ({**GOOD, "w": torch.ones(4)}, r"w has shape \[4\], expected \[2, 2\]"),
    ({**GOOD, "w": torch.ones(1, 1)}, r"w has shape \[1, 1\], expected \[2, 2\]"),
    ({**GOOD, "w": torch.ones(2, 2).double()}, "w is float64, expected float32"),
    ({**GOOD, "n": torch.tensor(1.0)}, "n is float32, expected int64"),
    ({}, "has no tensors|w is missing"),
]


@pytest.mark.parametrize(("tensors", "text"), FOREIGN, ids=[text for _, text in FOREIGN])
def test_a_report_of_another_model_is_rejected_and_the_sum_goes_on(tensors: Tensors, text: str) -> None:
    aggregator = MeanAggregator()
    state = added(aggregator, [report(w=torch.ones(2, 2), n=torch.tensor(1))])
    with pytest.raises(RejectedUpdate, match=text):
        aggregator.accumulate(state, report(1, tensors))
    found = aggregator.finalize(aggregator.accumulate(state, report(w=torch.full((2, 2), 3.0), n=torch.tensor(5))))
    assert found["w"].tolist() == [[2, 2], [2, 2]] and found["n"] == 5


def test_an_empty_report_is_rejected_whenever_it_comes() -> None:
    """The first report says what the others must be like, so it must say something."""
    aggregator = MeanAggregator()
    with pytest.raises(RejectedUpdate, match="has no tensors"):
        aggregator.accumulate(aggregator.init(), report())


@pytest.mark.parametrize("samples", [0, -1, -(2**63)])
def test_a_report_without_weight_is_rejected_where_weights_count(samples: int) -> None:
    aggregator = MeanAggregator(weight_by_samples=True)
    with pytest.raises(RejectedUpdate, match=f"a result with {samples} samples cannot be weighted"):
        aggregator.accumulate(aggregator.init(), report(samples, GOOD))
    assert result([report(samples, GOOD)])["w"].tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("samples", [2**40 + 1, 2**53, 2**63, 2**64 - 1])
def test_a_report_of_more_samples_than_there_can_be_is_rejected(samples: int) -> None:
    """A few of them would be more than a weight of 64 bits."""
    aggregator = MeanAggregator(weight_by_samples=True)
    with pytest.raises(RejectedUpdate, match=f"a result with {samples} samples cannot be weighted"):
        aggregator.accumulate(aggregator.init(), report(samples, GOOD))
    assert result([report(2**40, GOOD)] * 100, weighted=True)["w"].tolist() == [[1, 1], [1, 1]]


def test_every_round_begins_with_nothing() -> None:
    aggregator = MeanAggregator()
    added(aggregator, [report(w=torch.ones(2))])
    assert aggregator.init() == MeanAccumulator({}, {}, 0)
    assert aggregator.finalize(added(aggregator, [report(other=torch.zeros(3))]))["other"].tolist() == [0, 0, 0]


# --------------------------------------------------------------------------- memory


def test_reports_are_not_changed_and_not_kept() -> None:
    aggregator = MeanAggregator()
    tensors = {"w": torch.ones(3), "n": torch.tensor([1, 5]), "b": torch.tensor([True, False])}
    before = bits(tensors)
    state = added(aggregator, [report(1, tensors), report(w=torch.zeros(3), n=torch.tensor([9, 9]), b=~tensors["b"])])
    aggregator.finalize(state)
    assert bits(tensors) == before
    held = {tensor.untyped_storage().data_ptr() for tensor in tensors.values()}
    assert not held & {tensor.untyped_storage().data_ptr() for tensor in state.totals.values()}
    assert all(tensor.is_meta for tensor in state.templates.values())


def test_the_result_is_not_the_sum() -> None:
    aggregator = MeanAggregator()
    state = added(aggregator, [report(1, GOOD)])
    first = aggregator.finalize(state)
    state = aggregator.accumulate(state, report(w=torch.full((2, 2), 5.0), n=torch.tensor(9)))
    assert first["w"].tolist() == [[1, 1], [1, 1]] and first["n"] == 1
    assert aggregator.finalize(state)["w"].tolist() == [[3, 3], [3, 3]]


def test_the_sum_is_one_model_however_many_reports_come() -> None:
    aggregator = MeanAggregator()
    state = added(aggregator, [report(w=torch.ones(100), n=torch.ones(7).long())])
    places = {name: tensor.data_ptr() for name, tensor in state.totals.items()}
    for _ in range(20):
        state = aggregator.accumulate(state, report(w=torch.ones(100), n=torch.ones(7).long()))
    assert {name: tensor.data_ptr() for name, tensor in state.totals.items()} == places
    assert sum(tensor.nbytes for tensor in state.totals.values()) == 100 * 8 + 7 * 8 and state.total_weight == 21


def test_weights_are_switched_on_by_name() -> None:
    found = [registry.build_piece("aggregator", spec) for spec in ("mean", "mean:true", "mean,weight_by_samples=true")]
    reports = [report(3, w=torch.ones(1)), report(1, w=torch.zeros(1))]
    assert [float(one.finalize(added(one, reports))["w"]) for one in found] == [0.5, 0.75, 0.75]
