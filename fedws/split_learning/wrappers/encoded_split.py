"""A model that is cut in two, with an encoding without noise between the halves."""

import torch

from fedws.core import registry
from fedws.core.registry import register
from fedws.split_learning.feature_encoding import FeatureEncoding
from fedws.split_learning.model_split import split_model


class EncodedSplitModel(torch.nn.Module):
    """Extractor, encoding without noise, decoding, head: as a head is tested that was trained on such features."""

    def __init__(self, extractor: torch.nn.Module, head: torch.nn.Module, encoding: str) -> None:
        """Raises UnknownName and UsageError for an encoding that is none."""
        super().__init__()
        self.extractor = extractor
        self.head = head
        self._encoding: FeatureEncoding = registry.build_piece("encoding", encoding)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """As the model, but for what the encoding takes from the features; no gradient reaches the extractor."""
        features = self.extractor(inputs).detach()
        packed = self._encoding.encode(features.cpu(), None)
        outputs: torch.Tensor = self.head(self._encoding.decode(packed, features.shape[1:]).to(features.device))
        return outputs


@register("wrapper", "encoded_split")
def encoded_split(module: torch.nn.Module, *, split_at: str, encoding: str) -> EncodedSplitModel:
    """Return ``module`` cut after ``split_at``, with ``encoding`` between the halves.

    Raises UsageError for a cut that the model does not have, and for an encoding that cannot be made.
    """
    return EncodedSplitModel(*split_model(module, split_at), encoding)
