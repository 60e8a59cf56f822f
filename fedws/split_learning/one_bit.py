"""One bit for each feature value: 1 where it is above 0, else 0."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fedws.privacy.binary_channel import Channel
from fedws.privacy.secure_noise import Noise
from fedws.split_learning import bit_packing
from fedws.split_learning.bit_packing import rows


@dataclass(frozen=True)
class OneBit:
    """An :class:`fedws.split_learning.encoding.Encoding` whose bits go through a channel, eight to a byte.

    MistNet: B = 1 where A > 0. What the head gets is 0.0 and 1.0.
    """

    channel: Channel
    epsilon: float | None
    delta: float = 0.0
    width: float = 0.1
    """Of the step that :meth:`likelihood` puts in the place of the sharp one, in units of a feature."""

    def size(self, values: int) -> int:
        """An eighth, rounded up."""
        return bit_packing.size(values)

    def encode(self, features: torch.Tensor, noise: Noise | None) -> torch.Tensor:
        """Whether each is above 0, sent through the channel; NaN is not."""
        ones = rows(features.detach().cpu()) > 0
        return bit_packing.pack(ones if noise is None else self.channel.send(ones, noise))

    def decode(self, packed: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """0.0 and 1.0, as they arrived."""
        return self._bits(packed, shape).to(torch.float32)

    def estimate(self, packed: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Numbers whose mean over the noise is 0 or 1."""
        return self.channel.estimate(self._bits(packed, shape))

    def likelihood(self, features: torch.Tensor, packed: torch.Tensor) -> torch.Tensor:
        """By the channel, with a smooth step in the place of A > 0: sigmoid(A / width - 2).

        Its middle is a little above 0, so that a 0, which is all that ReLU leaves of a negative value, goes with a 0.
        """
        arrived = self._bits(packed, features.shape[1:]).to(features.device)
        return rows(self.channel.likelihood(features / self.width - 2, arrived)).sum(1)

    def _bits(self, packed: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        return bit_packing.unpack(packed, math.prod(shape)).reshape(len(packed), *shape)
