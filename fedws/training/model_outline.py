"""A model on torch's device ``meta``: its names, dtypes and shapes, without memory for its values."""

import warnings

import torch
from torch.nn.parameter import is_lazy

from fedws.core import registry
from fedws.core.errors import FedwsError, PieceFailed
from fedws.core.seeds import seeded
from fedws.training.building import initial


def outline(spec: str) -> torch.nn.Module:
    """Return a registered model on the device ``meta``, where tensors have no values and take no memory.

    A factory of the user's own that fails there, as one that reads a value, is called again as usual, and the result
    has values. Raises as :func:`fedws.training.building.initial`.
    """
    try:
        # Seeded blocks take turns, which the filters of warnings need: they are one list per process.
        with seeded(0), warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")  # weights that a factory loads have no effect there
            return initial(spec, seed=0)
    except FedwsError:
        if registry.ships("model", spec):
            raise
    return initial(spec, seed=0)


def values(module: torch.nn.Module) -> int:
    """Return the number of elements of all parameters and buffers; a tensor with several names counts once.

    >>> values(torch.nn.Linear(3, 2))
    8
    """
    return sum(tensor.numel() for tensor in (*module.parameters(), *module.buffers()) if not is_lazy(tensor))


def complete(spec: str) -> torch.nn.Module:
    """Return a registered model with values, after :func:`outline` was called for it.

    Raises PieceFailed for a factory that keeps tensors from one call to the next: some may be of the device ``meta``.
    """
    module = initial(spec, seed=0)
    if any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())):
        why = "its factory kept tensors of an earlier call, on the device meta"
        raise PieceFailed(f"model {spec}: {why}; create what it keeps inside 'with torch.device(\"cpu\")'")
    return module
