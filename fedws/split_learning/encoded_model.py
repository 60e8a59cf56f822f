"""A model that was cut, with what its features go through on their way from half to half."""

import torch

from fedws.core import registry
from fedws.split_learning.encoding import FeatureEncoding


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
