"""Encoding with one bit per feature value: 1 for a value above 0, otherwise 0."""

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
    """A ``fedws.split_learning.feature_encoding.FeatureEncoding`` that sends bits through a binary channel.

    Eight bits are packed into a byte. As in MistNet, B = 1 where A > 0. The head receives 0.0 and 1.0.
    """

    channel: BinaryChannel
    epsilon: float | None
    delta: float = 0.0
    step_width: float = 0.1
    """Width of the smooth step in ``negative_log_likelihood``, in units of a feature value."""

    def encoded_bytes(self, num_values: int) -> int:
        """Return an eighth of ``num_values``, rounded up."""
        return bit_packing.packed_size(num_values)

    def encode(self, features: torch.Tensor, rng: SecureRandom | None) -> torch.Tensor:
        """Send a 1 through the channel for each value above 0, and a 0 for others and NaN."""
        ones = flatten_features(features.detach().cpu()) > 0
        return bit_packing.pack_bits(ones if rng is None else self.channel.send(ones, rng))

    def decode(self, packed: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Return the received bits as 0.0 and 1.0."""
        return self._unpack(packed, shape).to(torch.float32)

    def estimate(self, packed: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Return estimates of the bits whose mean over the noise is 0 or 1."""
        return self.channel.estimate(self._unpack(packed, shape))

    def negative_log_likelihood(self, features: torch.Tensor, packed: torch.Tensor) -> torch.Tensor:
        """Return the negative log likelihood under the channel, with a smooth step instead of A > 0.

        The step is sigmoid(A / step_width - 2). Its centre is slightly above 0. A value of 0, to which ReLU maps every
        negative value, therefore counts as a 0.
        """
        received = self._unpack(packed, features.shape[1:]).to(features.device)
        return flatten_features(self.channel.negative_log_likelihood(features / self.step_width - 2, received)).sum(1)

    def _unpack(self, packed: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        return bit_packing.unpack_bits(packed, math.prod(shape)).reshape(len(packed), *shape)
