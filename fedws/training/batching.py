"""Which samples of an epoch make a batch."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from fedws.core.errors import RequestError

_BATCH_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.LazyBatchNorm1d,
    nn.LazyBatchNorm2d,
    nn.LazyBatchNorm3d,
)

_ONE_VALUE = "Expected more than 1 value per channel"
"""Beginning of torch's own error for a batch norm; any other may depend on the data."""


def count(samples: int, size: int, *, drop_last: bool = False) -> int:
    """Return the number of batches of ``size`` in an epoch, before any are joined.

    >>> count(5, 2), count(5, 2, drop_last=True)
    (3, 2)
    """
    return samples // size if drop_last else -(-samples // size)


def groups(order: torch.Tensor, size: int, *, join: bool = False, drop_last: bool = False) -> list[torch.Tensor]:
    """Return the indices of each batch: ``size`` at a time in the given order; the last batch may be shorter.

    With ``drop_last`` a shorter last batch is left out. With ``join`` a last batch of one sample is joined to the
    batch before.

    >>> [group.tolist() for group in groups(torch.arange(5), 2, join=True)]
    [[0, 1], [2, 3, 4]]
    """
    number = count(len(order), size, drop_last=drop_last)
    found = [order[start * size : (start + 1) * size] for start in range(number)]
    if join and len(found) > 1 and len(found[-1]) == 1 < size:
        found[-2:] = [torch.cat(found[-2:])]
    return found


def normalises(module: nn.Module) -> bool:
    """Return whether a batch norm of ``module`` is in training mode, so that a batch of one sample has no variance."""
    return any(isinstance(inner, _BATCH_NORMS) and inner.training for inner in module.modules())


@contextlib.contextmanager
def enough(samples: int, node: str, *, join: bool) -> Iterator[None]:
    """Raise RequestError where a batch norm fails on a batch of one; ``join`` is what :func:`normalises` gave."""
    try:
        yield
    except ValueError as error:
        if samples > 1 or not join or not str(error).startswith(_ONE_VALUE):
            raise
        raise RequestError(
            f"batch norm on {node} cannot train on a batch of one sample, which has no variance; "
            "give the node more samples, or use a --batch-size of 2 or more"
        ) from None
