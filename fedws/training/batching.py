"""The order of samples in local training, and their division into batches."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from fedws.core.errors import RequestError, TaskError
from fedws.core.task_settings import TrainSettings
from fedws.data.samples import Batch, iter_batches
from fedws.training.task_context import TaskContext

_BATCH_NORM_TYPES = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.LazyBatchNorm1d,
    nn.LazyBatchNorm2d,
    nn.LazyBatchNorm3d,
)

_SINGLE_SAMPLE_ERROR = "Expected more than 1 value per channel"
"""First words of torch's error for a batch norm; the text of any other error may depend on the data."""


def count_batches(num_examples: int, batch_size: int, *, drop_last: bool = False) -> int:
    """Return the number of batches of ``batch_size`` in an epoch, before batches are joined.

    >>> count_batches(5, 2), count_batches(5, 2, drop_last=True)
    (3, 2)
    """
    return num_examples // batch_size if drop_last else -(-num_examples // batch_size)


def split_into_batches(
    indices: torch.Tensor, batch_size: int, *, join_last: bool = False, drop_last: bool = False
) -> list[torch.Tensor]:
    """Return the indices of each batch: ``batch_size`` at a time in the given order.

    The last batch may be shorter; ``drop_last`` omits such a batch. ``join_last`` appends a last batch of one sample to
    the batch before.

    >>> [group.tolist() for group in split_into_batches(torch.arange(5), 2, join_last=True)]
    [[0, 1], [2, 3, 4]]
    """
    number = count_batches(len(indices), batch_size, drop_last=drop_last)
    found = [indices[start * batch_size : (start + 1) * batch_size] for start in range(number)]
    if join_last and len(found) > 1 and len(found[-1]) == 1 < batch_size:
        found[-2:] = [torch.cat(found[-2:])]
    return found


def iter_shuffled_batches(
    context: TaskContext, settings: TrainSettings, generator: torch.Generator, *, join_last: bool
) -> Iterator[Batch]:
    """Yield the batches of a local training, in the order that ``generator`` draws.

    A sample that is joined to another batch still counts as a separate batch, so joining does not change which samples
    are used. Raises TaskError if the node does not have enough samples, and TaskCancelled if the task is cancelled.
    """
    num_examples, batch_size, batches_left = context.num_examples, settings.batch_size, settings.max_local_batches
    if not num_examples:
        raise TaskError(f"{context.node} has no samples")
    if settings.drop_last and num_examples < batch_size:
        problem = f"{context.node} has {num_examples} samples, less than one batch of {batch_size}"
        solution = "use a smaller --batch-size, or remove --drop-last"
        raise TaskError(f"{problem}, and --drop-last omits them; {solution}")
    for _ in range(settings.epochs):
        if not batches_left:
            return
        indices = torch.randperm(num_examples, generator=generator)[: batches_left * batch_size]
        batches_left -= count_batches(len(indices), batch_size, drop_last=settings.drop_last)
        for batch in iter_batches(
            context.data, split_into_batches(indices, batch_size, join_last=join_last, drop_last=settings.drop_last)
        ):
            context.raise_if_cancelled()
            yield batch


def trains_batch_norm(module: nn.Module) -> bool:
    """Return True if a batch norm of ``module`` is in training mode, which needs the variance of a batch.

    A batch of one sample has no variance.
    """
    return any(isinstance(inner, _BATCH_NORM_TYPES) and inner.training for inner in module.modules())


@contextlib.contextmanager
def explain_batch_norm_error(num_examples: int, node: str, *, has_batch_norm: bool) -> Iterator[None]:
    """Raise RequestError if a batch norm fails in the block on a batch of one sample.

    ``has_batch_norm`` is the return value of ``trains_batch_norm``.
    """
    try:
        yield
    except ValueError as error:
        if num_examples > 1 or not has_batch_norm or not str(error).startswith(_SINGLE_SAMPLE_ERROR):
            raise
        raise RequestError(
            f"batch norm on {node} cannot train on a batch of one sample, which has no variance; "
            "give the node more samples, or use a --batch-size of 2 or more"
        ) from None
