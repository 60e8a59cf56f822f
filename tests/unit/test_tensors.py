import torch

from fedws.tensors import DTYPES, NAMES, detached, difference


def test_every_dtype_has_one_name() -> None:
    assert {NAMES[dtype]: dtype for dtype in DTYPES.values()} == dict(DTYPES)
    assert all(str(dtype) == f"torch.{name}" for name, dtype in DTYPES.items())


def test_detached_shares_nothing_and_has_no_history() -> None:
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    copy = detached({"w": weight, "t": weight.t() * 1, "n": torch.tensor(3)})
    assert list(copy) == ["w", "t", "n"]
    assert torch.equal(copy["w"], weight) and torch.equal(copy["t"], weight.t()) and copy["n"] == 3
    assert all(not tensor.requires_grad and tensor.is_contiguous() for tensor in copy.values())
    with torch.no_grad():
        weight.zero_()
    assert copy["w"].sum() == 15


def test_a_transposed_view_is_detached_into_memory_of_its_own() -> None:
    whole = torch.arange(6.0).reshape(2, 3)
    copy = detached({"t": whole.t()})["t"]
    whole.zero_()
    assert copy.is_contiguous() and copy.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_difference_names_the_first_thing_that_differs() -> None:
    like = {"a": torch.zeros(2), "b": torch.zeros((), dtype=torch.int64)}
    assert difference(dict(like), like) == ""
    assert difference(dict(reversed(like.items())), like) == ""
    assert difference({"a": like["a"]}, like) == "b is missing"
    assert difference({**like, "c": like["a"]}, like) == "c is not known here"
    assert difference({**like, "b": torch.zeros(1, dtype=torch.int64)}, like) == "b has shape [1], not []"
    assert difference({**like, "a": torch.zeros(2, dtype=torch.float16)}, like) == "a is float16, not float32"
    assert difference({**like, "a": torch.zeros(2, dtype=torch.complex64)}, like) == "a is torch.complex64, not float32"
    assert difference({}, {}) == ""


def test_values_and_strides_make_no_difference() -> None:
    one = {"w": torch.ones(3, 3).t()[:2]}
    assert difference(one, {"w": torch.zeros(2, 3)}) == ""
