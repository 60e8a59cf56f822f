"""Feature values as float32, as they are or with noise."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from fedws.core.tensors import unfit
from fedws.privacy.secure_noise import Noise
from fedws.split_learning.bit_packing import check, rows

_FARTHEST = 40.0
"""In scales: no noise is drawn farther from 0."""
_MOST = 2.0**20
"""Of bound to scale, or of scale to bound: beyond, the one would be lost in the last bits of the other."""


class Reals:
    """An :class:`fedws.split_learning.encoding.Encoding` in float32, little endian: four bytes a value, no privacy."""

    epsilon: float | None = None
    delta: float = 0.0

    def size(self, values: int) -> int:
        """Four bytes a value."""
        return 4 * values

    def encode(self, features: torch.Tensor, noise: Noise | None) -> torch.Tensor:
        """The values. Raises ValueError for NaN and Inf."""
        values = finite(rows(features.detach().cpu()))
        return torch.from_numpy(np.ascontiguousarray(values.numpy(), "<f4").view(np.uint8))

    def decode(self, packed: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """The values. Raises ValueError for a wrong size, and for NaN and Inf."""
        check(packed, self.size(math.prod(shape)))
        values = packed.contiguous().numpy().view("<f4").astype(np.float32)
        return finite(torch.from_numpy(values)).reshape(len(packed), *shape)

    def estimate(self, packed: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """The values: noise, if any, has mean 0."""
        return self.decode(packed, shape)

    def likelihood(self, features: torch.Tensor, packed: torch.Tensor) -> torch.Tensor:
        """As if noise from N(0, 1) were in each value, but for the constant."""
        return (self._distance(features, packed) ** 2 / 2).sum(1)

    def _distance(self, features: torch.Tensor, packed: torch.Tensor) -> torch.Tensor:
        """What was sent minus ``features``, as rows."""
        return rows(self.decode(packed, features.shape[1:]).to(features.device) - features)


class Noisy(Reals):
    """Values clipped to [0, bound], so that two differ by ``bound`` at most, with noise from ``draw(noise, shape)``.

    Below 0 nothing is told, as in one bit: what ReLU leaves is above. ``surprise`` is the negative log density of noise
    of some size. The noise is added in float64 and the sum sent as float32: with noise it may be outside of the range.
    """

    def __init__(
        self,
        bound: float,
        scale: float,
        draw: Callable[[Noise, Sequence[int]], torch.Tensor],
        surprise: Callable[[torch.Tensor], torch.Tensor],
        *,
        epsilon: float,
        delta: float = 0.0,
    ) -> None:
        if not 1 / _MOST <= scale / bound <= _MOST or _FARTHEST * scale > torch.finfo(torch.float32).max:
            raise ValueError(f"noise of scale {scale:g} on values up to {bound:g} cannot be told in floats")
        self.bound, self.epsilon, self.delta = bound, epsilon, delta
        self._draw, self._surprise = draw, surprise

    def encode(self, features: torch.Tensor, noise: Noise | None) -> torch.Tensor:
        """The clipped values, with noise. Raises ValueError for NaN and Inf."""
        clipped = finite(features.detach().cpu()).clamp(0, self.bound)
        return super().encode(clipped if noise is None else clipped + self._draw(noise, clipped.shape), noise)

    def likelihood(self, features: torch.Tensor, packed: torch.Tensor) -> torch.Tensor:
        """By the density of the noise."""
        return self._surprise(self._distance(features.clamp(0, self.bound), packed)).sum(1)


def finite(values: torch.Tensor) -> torch.Tensor:
    """``values``. Raises ValueError for NaN and Inf."""
    if problem := unfit({"a record": values}):
        raise ValueError(problem)
    return values
