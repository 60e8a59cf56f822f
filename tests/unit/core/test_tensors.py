import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedws.core.tensors import (
    DTYPE_NAMES,
    DTYPES,
    FLOAT8_DTYPES,
    copy_to_cpu,
    find_mismatch,
    find_nonfinite,
    is_averaged,
    to_compute_dtype,
)

FLOATING = [dtype for dtype in DTYPES.values() if dtype.is_floating_point]
INFINITE = [dtype for dtype in FLOATING if dtype not in FLOAT8_DTYPES or dtype is torch.float8_e5m2]
"""Those that have infinities."""


def test_every_dtype_has_one_name() -> None:
    assert {DTYPE_NAMES[dtype]: dtype for dtype in DTYPES.values()} == dict(DTYPES)
    assert all(str(dtype) == f"torch.{name}" for name, dtype in DTYPES.items())


def test_detached_shares_nothing_and_has_no_history() -> None:
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    copy = copy_to_cpu({"w": weight, "t": weight.t() * 1, "n": torch.tensor(3)})
    assert list(copy) == ["w", "t", "n"]
    assert torch.equal(copy["w"], weight) and torch.equal(copy["t"], weight.t()) and copy["n"] == 3
    assert all(not tensor.requires_grad and tensor.is_contiguous() for tensor in copy.values())
    with torch.no_grad():
        weight.zero_()
    assert copy["w"].sum() == 15


def test_a_transposed_view_is_detached_into_memory_of_its_own() -> None:
    whole = torch.arange(6.0).reshape(2, 3)
    copy = copy_to_cpu({"t": whole.t()})["t"]
    whole.zero_()
    assert copy.is_contiguous() and copy.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_difference_names_the_first_thing_that_differs() -> None:
    like = {"a": torch.zeros(2), "b": torch.zeros((), dtype=torch.int64)}
    assert find_mismatch(dict(like), like) == ""
    assert find_mismatch(dict(reversed(like.items())), like) == ""
    assert find_mismatch({"a": like["a"]}, like) == "b is missing"
    assert find_mismatch({**like, "c": like["a"]}, like) == "unexpected tensor 'c'"
    assert find_mismatch({**like, "b": torch.zeros(1, dtype=torch.int64)}, like) == "b has shape [1], expected []"
    assert find_mismatch({**like, "a": torch.zeros(2, dtype=torch.float16)}, like) == "a is float16, expected float32"
    other = {**like, "a": torch.zeros(2, dtype=torch.complex64)}
    assert find_mismatch(other, like) == "a is complex64, expected float32"
    assert find_mismatch({}, {}) == ""


def test_values_and_strides_make_no_difference() -> None:
    one = {"w": torch.ones(3, 3).t()[:2]}
    assert find_mismatch(one, {"w": torch.zeros(2, 3)}) == ""


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@settings(deadline=None)
@given(data=st.data())
def test_unfit_finds_what_is_not_finite_wherever_it_is(dtype: torch.dtype, data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 300))  # more and less than a vector register
    values = torch.linspace(-3, 3, length).abs().to(dtype)  # float8_e8m0fnu has no negative numbers
    kinds = [math.nan, math.inf, -math.inf] if dtype in INFINITE else [math.nan]
    odd = data.draw(st.dictionaries(st.integers(0, length - 1), st.sampled_from(kinds)))
    for place, value in odd.items():
        values[place] = value
    wanted = "NaN" if any(map(math.isnan, odd.values())) else "Inf" if odd else ""
    assert find_nonfinite({"fine": torch.ones(2), "w": values, "last": torch.ones(())}) == (
        wanted and f"w contains {wanted}"
    )


@pytest.mark.parametrize(
    ("dtype", "sign"),
    [(dtype, sign) for dtype in FLOATING for sign in (1, -1) if sign > 0 or torch.finfo(dtype).min < 0],
    ids=str,
)
def test_finite_values_are_fine_though_their_sum_is_not(dtype: torch.dtype, sign: int) -> None:
    most = torch.full((1000,), float(torch.finfo(dtype).max), dtype=torch.float64).mul(sign).to(dtype)
    assert dtype in FLOAT8_DTYPES or not torch.isfinite(most.sum())
    assert find_nonfinite({"w": most}) == "" and float(to_compute_dtype(most)[0]) == sign * torch.finfo(dtype).max


@pytest.mark.parametrize(
    ("dtype", "value", "text"),
    [
        *((dtype, math.nan, "w contains NaN") for dtype in FLOATING),
        *((dtype, math.inf, "w contains Inf") for dtype in INFINITE),
        *((dtype, 0.5, "") for dtype in FLOATING),
    ],
    ids=str,
)
def test_scalars_and_what_lies_scattered_are_looked_at(dtype: torch.dtype, value: float, text: str) -> None:
    assert find_nonfinite({"w": torch.tensor(value, dtype=dtype)}) == text
    whole = torch.zeros(70, 30, dtype=dtype)
    whole[60, 20] = value
    for view in (whole.t(), whole[::2, ::2], whole[60].expand(5, 30), whole.reshape(7, 10, 30).movedim(2, 0)):
        assert find_nonfinite({"w": view}) == text
    assert find_nonfinite({"w": whole.t()[:, ::7]}) == "", "what is not in the view is not looked at"


def test_infinities_of_both_signs_are_no_nan() -> None:
    assert find_nonfinite({"w": torch.tensor([math.inf, -math.inf])}) == "w contains Inf"


def test_the_first_that_is_unfit_is_named() -> None:
    tensors = {"a": torch.ones(3), "b": torch.tensor([math.inf]), "c": torch.tensor([math.nan])}
    assert find_nonfinite(tensors) == "b contains Inf"
    assert find_nonfinite(dict(reversed(tensors.items()))) == "c contains NaN"


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_nothing_at_all_is_fine(dtype: torch.dtype) -> None:
    assert find_nonfinite({"w": torch.zeros(0, 3, dtype=dtype)}) == "" == find_nonfinite({})


@pytest.mark.parametrize("dtype", [d for d in DTYPES.values() if not is_averaged(torch.empty(0, dtype=d))], ids=str)
def test_whole_numbers_and_flags_are_fine(dtype: torch.dtype) -> None:
    ends = [False, True] if dtype == torch.bool else [torch.iinfo(dtype).min, torch.iinfo(dtype).max]
    assert find_nonfinite({"w": torch.tensor(ends, dtype=dtype), "n": torch.tensor(1, dtype=dtype)}) == ""


def test_a_parameter_is_looked_at_and_nothing_is_changed() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, math.nan]))
    before = weight.detach().clone()
    assert find_nonfinite({"w": weight}) == "w contains NaN"
    assert torch.allclose(weight.detach(), before, equal_nan=True)
