"""A model that is cut in two, with an encoding without noise between the halves."""

import torch

from fedws.core.registry import register
from fedws.split_learning.encoded_model import Encoded
from fedws.split_learning.model_split import split


@register("wrapper", "encoded_split")
def encoded_split(module: torch.nn.Module, *, cut: str, encoding: str) -> Encoded:
    """Return ``module`` cut after ``cut``, with ``encoding`` between the halves.

    Raises UsageError for a cut that the model does not have, and for an encoding that cannot be made.
    """
    return Encoded(*split(module, cut), encoding)
