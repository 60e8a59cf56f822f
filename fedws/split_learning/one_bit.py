"""One bit for each feature value: 1 where it is above 0, else 0."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fedws.privacy.binary_channel import BinaryChannel
from fedws.privacy.secure_noise import SecureRandom
from fedws.split_learning import bit_packing
from fedws.split_learning.bit_packing import flatten_features


@dataclass(frozen=True)
class OneBitEncoding:
    """An :class:`fedws.split_learning.feature_encoding.FeatureEncoding` whose bits go through a channel, eight to a
    byte.

    MistNet: B = 1 where A > 0. What the head gets is 0.0 and 1.0.
    """

    channel: BinaryChannel
    epsilon: float | None
    delta: float = 0.0
    step_width: float = 0.1
    """Of the step that :meth:`negative_log_likelihood` puts in the place of the sharp one, in units of a feature."""

    def encoded_bytes(self, num_values: int) -> int:
        """An eighth, rounded up."""
        return bit_packing.packed_size(num_values)

    def encode(self, features: torch.Tensor, rng: SecureRandom | None) -> torch.Tensor:
        """Whether each is above 0, sent through the channel; NaN is not."""
        ones = flatten_features(features.detach().cpu()) > 0
        return bit_packing.pack_bits(ones if rng is None else self.channel.send(ones, rng))

    def decode(self, packed: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """0.0 and 1.0, as they arrived."""
        return self._unpack(packed, shape).to(torch.float32)

    def estimate(self, packed: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Numbers whose mean over the noise is 0 or 1."""
        return self.channel.estimate(self._unpack(packed, shape))

    def negative_log_likelihood(self, features: torch.Tensor, packed: torch.Tensor) -> torch.Tensor:
        """By the channel, with a smooth step in the place of A > 0: sigmoid(A / width - 2).

        Its middle is a little above 0, so that a 0, which is all that ReLU leaves of a negative value, goes with a 0.
        """
        arrived = self._unpack(packed, features.shape[1:]).to(features.device)
        return flatten_features(self.channel.negative_log_likelihood(features / self.step_width - 2, arrived)).sum(1)

    def _unpack(self, packed: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        return bit_packing.unpack_bits(packed, math.prod(shape)).reshape(len(packed), *shape)
