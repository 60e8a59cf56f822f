"""Functions for the labels of a batch."""

import torch

from fedws.core.tensors import DTYPE_NAMES


def count_output_classes(outputs: object, labels: object) -> int:
    """Return the number of classes of a model, from its outputs for a batch and the labels of that batch.

    The result is 0 if the model is not a classifier. A classifier has outputs of shape [n, classes] with at least two
    classes, and integer labels of shape [n].
    """
    if not isinstance(outputs, torch.Tensor) or not isinstance(labels, torch.Tensor):
        return 0
    if outputs.dim() != 2 or labels.dim() != 1 or labels.is_floating_point() or outputs.shape[1] < 2:
        return 0
    return outputs.shape[1]


def to_sendable_labels(labels: object) -> torch.Tensor:
    """Return the labels of a batch in a dtype that may be sent: float32 for real numbers, int64 for all others.

    Raises ValueError if the labels are not a tensor with at least one dimension.
    """
    if not isinstance(labels, torch.Tensor) or not labels.dim():
        raise ValueError("labels must be tensors of one shape")
    return labels.to(torch.float32 if labels.is_floating_point() else torch.int64)


def describe_labels(labels: torch.Tensor) -> str:
    """Return the dtype and the shape of a single label of a batch, as text.

    >>> describe_labels(torch.zeros(3, dtype=torch.int64)), describe_labels(torch.zeros(3, 10, 5))
    ('int64 []', 'float32 [10, 5]')
    """
    return f"{DTYPE_NAMES[labels.dtype]} {list(labels.shape[1:])}"
