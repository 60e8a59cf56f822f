"""Construction of registered models, with fresh weights or as outlines on torch's device ``meta`` without memory."""

import warnings

import torch
from torch.nn.parameter import is_lazy

from fedws.core import registry
from fedws.core.errors import FedwsError, PieceFailed
from fedws.core.seeds import seed_generators
from fedws.protocol import sendable_model


def build_model(spec: str, seed: int) -> torch.nn.Module:
    """Return a registered model with fresh weights drawn from ``seed``. Raises UnknownName or UsageError."""
    with seed_generators(seed):
        return sendable_model.require_module(spec, registry.build_piece("model", spec))


def build_outline(spec: str) -> torch.nn.Module:
    """Return a registered model on the device ``meta``, where tensors have no values and take no memory.

    A custom factory may fail on ``meta``, for example if it reads a value. It is then called again on the CPU, and the
    returned model has values. Raises UnknownName or UsageError.
    """
    try:
        # The warning filters are shared by the process. Seeded blocks exclude each other, so no other block sees them.
        with seed_generators(0), warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")  # torch warns that loading weights into meta tensors has no effect
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
    """Return a registered model with values, after ``build_outline`` was called for it.

    Raises PieceFailed if the factory reuses tensors of an earlier call, since they may be on the device ``meta``.
    """
    module = build_model(spec, seed=0)
    if any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())):
        why = "its factory reused tensors of an earlier call, on the device meta"
        raise PieceFailed(f"model {spec}: {why}; create the tensors that it keeps inside 'with torch.device(\"cpu\")'")
    return module
