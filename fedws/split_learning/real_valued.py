"""Feature values as float32, as they are or with noise."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from fedws.core.tensors import find_nonfinite
from fedws.privacy.secure_noise import SecureRandom
from fedws.split_learning.bit_packing import check_record_size, flatten_features

_MAX_NOISE_IN_SCALES = 40.0
"""In scales: no noise is drawn farther from 0."""
_MAX_SCALE_RATIO = 2.0**20
"""Of bound to scale, or of scale to bound: beyond, the one would be lost in the last bits of the other."""


class FloatEncoding:
    """An :class:`fedws.split_learning.feature_encoding.FeatureEncoding` in float32, little endian: four bytes a value,
    no privacy."""

    epsilon: float | None = None
    delta: float = 0.0

    def encoded_bytes(self, num_values: int) -> int:
        """Four bytes a value."""
        return 4 * num_values

    def encode(self, features: torch.Tensor, rng: SecureRandom | None) -> torch.Tensor:
        """The values. Raises ValueError for NaN and Inf."""
        values = check_finite(flatten_features(features.detach().cpu()))
        return torch.from_numpy(np.ascontiguousarray(values.numpy(), "<f4").view(np.uint8))

    def decode(self, packed: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """The values. Raises ValueError for a wrong size, and for NaN and Inf."""
        check_record_size(packed, self.encoded_bytes(math.prod(shape)))
        values = packed.contiguous().numpy().view("<f4").astype(np.float32)
        return check_finite(torch.from_numpy(values)).reshape(len(packed), *shape)

    def estimate(self, packed: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """The values: noise, if any, has mean 0."""
        return self.decode(packed, shape)

    def negative_log_likelihood(self, features: torch.Tensor, packed: torch.Tensor) -> torch.Tensor:
        """As if noise from N(0, 1) were in each value, but for the constant."""
        return (self._residual(features, packed) ** 2 / 2).sum(1)

    def _residual(self, features: torch.Tensor, packed: torch.Tensor) -> torch.Tensor:
        """What was sent minus ``features``, as rows."""
        return flatten_features(self.decode(packed, features.shape[1:]).to(features.device) - features)


class NoisyFloatEncoding(FloatEncoding):
    """Values clipped to [0, bound], so that two differ by ``bound`` at most, with noise from ``draw(noise, shape)``.

    Below 0 nothing is told, as in one bit: what ReLU leaves is above. ``negative_log_density`` is the negative log
    density of noise of some size. The noise is added in float64 and the sum sent as float32: with noise it may be
    outside of the range.
    """

    def __init__(
        self,
        bound: float,
        scale: float,
        draw_noise: Callable[[SecureRandom, Sequence[int]], torch.Tensor],
        negative_log_density: Callable[[torch.Tensor], torch.Tensor],
        *,
        epsilon: float,
        delta: float = 0.0,
    ) -> None:
        if (
            not 1 / _MAX_SCALE_RATIO <= scale / bound <= _MAX_SCALE_RATIO
            or _MAX_NOISE_IN_SCALES * scale > torch.finfo(torch.float32).max
        ):
            raise ValueError(f"noise of scale {scale:g} on values up to {bound:g} cannot be told in floats")
        self.bound, self.epsilon, self.delta = bound, epsilon, delta
        self._draw_noise, self._negative_log_density = draw_noise, negative_log_density

    def encode(self, features: torch.Tensor, rng: SecureRandom | None) -> torch.Tensor:
        """The clipped values, with noise. Raises ValueError for NaN and Inf."""
        clipped = check_finite(features.detach().cpu()).clamp(0, self.bound)
        return super().encode(clipped if rng is None else clipped + self._draw_noise(rng, clipped.shape), rng)

    def negative_log_likelihood(self, features: torch.Tensor, packed: torch.Tensor) -> torch.Tensor:
        """By the density of the noise."""
        return self._negative_log_density(self._residual(features.clamp(0, self.bound), packed)).sum(1)


def check_finite(values: torch.Tensor) -> torch.Tensor:
    """``values``. Raises ValueError for NaN and Inf."""
    if problem := find_nonfinite({"a record": values}):
        raise ValueError(problem)
    return values
