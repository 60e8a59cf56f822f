"""Tensors that are the same are kept once, and others never are."""

import gc

import torch

from fedws.core.tensors import DTYPES
from fedws.simulation.tensor_cache import Shared


def test_equal_tensors_are_one() -> None:
    shared = Shared()
    one = shared.of({"w": torch.ones(2, 3), "b": torch.zeros(())})
    other = shared.of({"w": torch.ones(2, 3), "b": torch.zeros(())})
    assert other["w"] is one["w"] and other["b"] is one["b"]


def test_different_tensors_are_not() -> None:
    shared, values = Shared(), [torch.zeros(6, dtype=dtype) for dtype in DTYPES.values()]
    values += [torch.zeros(2, 3), torch.zeros(3, 2), torch.zeros(()), torch.zeros(0), torch.zeros(0, 4), torch.ones(6)]
    values += [torch.full((6,), -0.0), torch.full((6,), float("nan"))]
    found = [shared.of({"w": value})["w"] for value in values]
    assert all(one is other for one, other in zip(found, values, strict=True))


def test_strides_do_not_matter() -> None:
    shared, square = Shared(), torch.arange(9.0).reshape(3, 3)
    known = shared.of({"w": square.T.contiguous()})
    assert shared.of({"w": square.T})["w"] is known["w"]


def test_what_nobody_uses_is_forgotten() -> None:
    shared = Shared()
    kept = shared.of({"w": torch.ones(3)})
    assert len(shared._known) == 1
    del kept
    gc.collect()
    assert len(shared._known) == 0
