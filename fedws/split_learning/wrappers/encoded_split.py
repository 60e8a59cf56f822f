"""A split model with an encoding without noise between its halves."""

import torch

from fedws.core import registry
from fedws.core.registry import register
from fedws.split_learning.feature_encoding import FeatureEncoding
from fedws.split_learning.model_split import split_model


class EncodedSplitModel(torch.nn.Module):
    """A model of extractor, encoding without noise, decoding and head, to evaluate a head trained on such features."""

    def __init__(self, extractor: torch.nn.Module, head: torch.nn.Module, encoding: str) -> None:
        """Build the encoding; raise UnknownName or UsageError if it is not a valid one."""
        super().__init__()
        self.extractor = extractor
        self.head = head
        self._encoding: FeatureEncoding = registry.build_piece("encoding", encoding)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the output of the model for encoded features; gradients do not reach the extractor."""
        features = self.extractor(inputs).detach()
        packed = self._encoding.encode(features.cpu(), None)
        outputs: torch.Tensor = self.head(self._encoding.decode(packed, features.shape[1:]).to(features.device))
        return outputs


@register("wrapper", "encoded_split")
def encoded_split(module: torch.nn.Module, *, split_at: str, encoding: str) -> EncodedSplitModel:
    """Return ``module`` split after ``split_at``, with ``encoding`` between the halves.

    Raises UsageError for an impossible split point, and for an encoding that cannot be built.
    """
    return EncodedSplitModel(*split_model(module, split_at), encoding)
