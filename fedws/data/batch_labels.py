"""Class labels of a batch."""

import torch

from fedws.core.tensors import DTYPE_NAMES


def count_output_classes(outputs: object, labels: object) -> int:
    """How many classes a model tells apart, by what it gives for some samples and their labels; 0 if it does not."""
    if not isinstance(outputs, torch.Tensor) or not isinstance(labels, torch.Tensor):
        return 0
    if outputs.dim() != 2 or labels.dim() != 1 or labels.is_floating_point() or outputs.shape[1] < 2:
        return 0
    return outputs.shape[1]


def to_sendable_labels(labels: object) -> torch.Tensor:
    """Labels of some samples as they may be sent: int64 or float32. Raises ValueError where they are no one tensor."""
    if not isinstance(labels, torch.Tensor) or not labels.dim():
        raise ValueError("labels must be tensors of one shape")
    return labels.to(torch.float32 if labels.is_floating_point() else torch.int64)


def describe_labels(labels: torch.Tensor) -> str:
    """What one of several labels is.

    >>> describe_labels(torch.zeros(3, dtype=torch.int64)), describe_labels(torch.zeros(3, 10, 5))
    ('int64 []', 'float32 [10, 5]')
    """
    return f"{DTYPE_NAMES[labels.dtype]} {list(labels.shape[1:])}"
