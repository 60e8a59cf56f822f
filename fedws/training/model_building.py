"""Builds registered models: with fresh weights, or as outlines on torch's device ``meta``, without memory."""

import warnings

import torch
from torch.nn.parameter import is_lazy

from fedws.core import registry
from fedws.core.errors import FedwsError, PieceFailed
from fedws.core.seeds import seed_generators
from fedws.protocol import sendable_model


def build_model(spec: str, seed: int) -> torch.nn.Module:
    """A registered model with fresh weights drawn from ``seed``. Raises UnknownName or UsageError."""
    with seed_generators(seed):
        return sendable_model.require_module(spec, registry.build_piece("model", spec))


def build_outline(spec: str) -> torch.nn.Module:
    """Return a registered model on the device ``meta``, where tensors have no values and take no memory.

    A factory of the user's own that fails there, as one that reads a value, is called again as usual, and the result
    has values. Raises as :func:`fedws.training.model_building.build_model`.
    """
    try:
        # Seeded blocks take turns, which the filters of warnings need: they are one list per process.
        with seed_generators(0), warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")  # weights that a factory loads have no effect there
            return build_model(spec, seed=0)
    except FedwsError:
        if registry.is_shipped("model", spec):
            raise
    return build_model(spec, seed=0)


def count_elements(module: torch.nn.Module) -> int:
    """Return the number of elements of all parameters and buffers; a tensor with several names counts once.

    >>> count_elements(torch.nn.Linear(3, 2))
    8
    """
    return sum(tensor.numel() for tensor in (*module.parameters(), *module.buffers()) if not is_lazy(tensor))


def build_complete_model(spec: str) -> torch.nn.Module:
    """Return a registered model with values, after :func:`build_outline` was called for it.

    Raises PieceFailed for a factory that keeps tensors from one call to the next: some may be of the device ``meta``.
    """
    module = build_model(spec, seed=0)
    if any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())):
        why = "its factory kept tensors of an earlier call, on the device meta"
        raise PieceFailed(f"model {spec}: {why}; create what it keeps inside 'with torch.device(\"cpu\")'")
    return module
