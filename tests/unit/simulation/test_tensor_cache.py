"""Tensors that are the same are kept once, and others never are."""

import gc

import torch

from fedws.core.tensors import DTYPES
from fedws.simulation.tensor_cache import TensorCache


def test_equal_tensors_are_one() -> None:
    shared = TensorCache()
    one = shared.deduplicate({"w": torch.ones(2, 3), "b": torch.zeros(())})
    other = shared.deduplicate({"w": torch.ones(2, 3), "b": torch.zeros(())})
    assert other["w"] is one["w"] and other["b"] is one["b"]


def test_different_tensors_are_not() -> None:
    shared, values = TensorCache(), [torch.zeros(6, dtype=dtype) for dtype in DTYPES.values()]
    values += [torch.zeros(2, 3), torch.zeros(3, 2), torch.zeros(()), torch.zeros(0), torch.zeros(0, 4), torch.ones(6)]
    values += [torch.full((6,), -0.0), torch.full((6,), float("nan"))]
    found = [shared.deduplicate({"w": value})["w"] for value in values]
    assert all(one is other for one, other in zip(found, values, strict=True))


def test_strides_do_not_matter() -> None:
    shared, square = TensorCache(), torch.arange(9.0).reshape(3, 3)
    known = shared.deduplicate({"w": square.T.contiguous()})
    assert shared.deduplicate({"w": square.T})["w"] is known["w"]


def test_what_nobody_uses_is_forgotten() -> None:
    shared = TensorCache()
    kept = shared.deduplicate({"w": torch.ones(3)})
    assert len(shared._tensors) == 1
    del kept
    gc.collect()
    assert len(shared._tensors) == 0
