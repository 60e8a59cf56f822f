"""Feature values in 256 steps without privacy, for comparison.

Affine quantisation: Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only
inference" (CVPR 2018), section 2.1.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

from fedws.core.registry import register
from fedws.privacy.secure_noise import SecureRandom
from fedws.split_learning.bit_packing import check_record_size, flatten_features
from fedws.split_learning.feature_encoding import FeatureEncoding
from fedws.split_learning.real_valued import FloatEncoding, check_finite

_HEADER_BYTES = 8


@register("encoding", "int8")
def int8() -> FeatureEncoding:
    """Return the encoding with eight bits per value, in even steps from a record's least value to its greatest."""
    return Int8Encoding()


class Int8Encoding(FloatEncoding):
    """An encoding of a record as its least value and its step, followed by one byte per value.

    The first two are float32, little endian. A byte is the number of steps of a value.
    """

    def encoded_bytes(self, num_values: int) -> int:
        """Return one byte per value, plus eight."""
        return _HEADER_BYTES + num_values

    def encode(self, features: torch.Tensor, rng: SecureRandom | None) -> torch.Tensor:
        """Return the record with each value as the nearest number of steps.

        Raises ValueError for NaN and Inf.
        """
        values = check_finite(flatten_features(features.detach().cpu())).to(torch.float64).numpy()
        low = values.min(axis=1, keepdims=True, initial=math.inf)
        high = values.max(axis=1, keepdims=True, initial=-math.inf)
        head = np.where(low <= high, np.hstack([low, (high - low) / 255]), 0).astype("<f4")
        step = np.where(head[:, 1:] > 0, head[:, 1:], 1)
        steps = np.rint((values - head[:, :1]) / step).clip(0, 255).astype(np.uint8)
        return torch.from_numpy(np.hstack([head.view(np.uint8), steps]))

    def decode(self, packed: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Return the values of the steps.

        Raises ValueError for a wrong size, and for NaN and Inf.
        """
        check_record_size(packed, self.encoded_bytes(math.prod(shape)))
        head = torch.from_numpy(packed[:, :_HEADER_BYTES].contiguous().numpy().view("<f4").astype(np.float32))
        return check_finite(head[:, :1] + head[:, 1:] * packed[:, _HEADER_BYTES:]).reshape(len(packed), *shape)
