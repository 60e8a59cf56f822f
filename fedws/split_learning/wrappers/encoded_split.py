"""A model that is cut in two, with an encoding without noise between the halves."""

import torch

from fedws.core.registry import register
from fedws.split_learning.encoded_model import EncodedSplitModel
from fedws.split_learning.model_split import split_model


@register("wrapper", "encoded_split")
def encoded_split(module: torch.nn.Module, *, split_at: str, encoding: str) -> EncodedSplitModel:
    """Return ``module`` cut after ``split_at``, with ``encoding`` between the halves.

    Raises UsageError for a cut that the model does not have, and for an encoding that cannot be made.
    """
    return EncodedSplitModel(*split_model(module, split_at), encoding)
