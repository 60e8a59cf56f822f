"""Encodings of feature values as float32, unchanged or with noise."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from fedws.core.tensors import find_nonfinite
from fedws.privacy.secure_noise import SecureRandom
from fedws.split_learning.bit_packing import check_record_size, flatten_features

_MAX_NOISE_IN_SCALES = 40.0
"""Maximum magnitude of the noise that is drawn, in units of its scale."""
_MAX_SCALE_RATIO = 2.0**20
"""Maximum ratio of bound to scale, or scale to bound; above it, rounding would lose the smaller one."""


class FloatEncoding:
    """A ``fedws.split_learning.feature_encoding.FeatureEncoding`` as float32, little endian, without privacy."""

    epsilon: float | None = None
    delta: float = 0.0

    def encoded_bytes(self, num_values: int) -> int:
        """Return four bytes per value."""
        return 4 * num_values

    def encode(self, features: torch.Tensor, rng: SecureRandom | None) -> torch.Tensor:
        """Return the bytes of the values.

        Raises ValueError for NaN and Inf.
        """
        values = check_finite(flatten_features(features.detach().cpu()))
        return torch.from_numpy(np.ascontiguousarray(values.numpy(), "<f4").view(np.uint8))

    def decode(self, packed: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Return the values.

        Raises ValueError for a wrong size, and for NaN and Inf.
        """
        check_record_size(packed, self.encoded_bytes(math.prod(shape)))
        values = packed.contiguous().numpy().view("<f4").astype(np.float32)
        return check_finite(torch.from_numpy(values)).reshape(len(packed), *shape)

    def estimate(self, packed: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Return the values, because noise, if any, has mean 0."""
        return self.decode(packed, shape)

    def negative_log_likelihood(self, features: torch.Tensor, packed: torch.Tensor) -> torch.Tensor:
        """Return the negative log likelihood, except for its constant, as if each value had noise from N(0, 1)."""
        return (self._residual(features, packed) ** 2 / 2).sum(1)

    def _residual(self, features: torch.Tensor, packed: torch.Tensor) -> torch.Tensor:
        """Return the decoded values minus ``features``, as rows."""
        return flatten_features(self.decode(packed, features.shape[1:]).to(features.device) - features)


class NoisyFloatEncoding(FloatEncoding):
    """An encoding of values that are clipped to [0, bound] and sent with additive noise.

    Two clipped values differ by at most ``bound``. As in an encoding with one bit, values below 0 are not
    distinguished, since outputs of ReLU are not below 0. ``draw_noise(rng, shape)`` returns the noise, and
    ``negative_log_density`` the negative log density of noise of a given size. The noise is added in float64, and the
    sum is sent as float32. It may be outside of the range. Raises ValueError if float32 cannot represent the noise.
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
            raise ValueError(f"float32 cannot represent noise of scale {scale:g} on values up to {bound:g}")
        self.bound, self.epsilon, self.delta = bound, epsilon, delta
        self._draw_noise, self._negative_log_density = draw_noise, negative_log_density

    def encode(self, features: torch.Tensor, rng: SecureRandom | None) -> torch.Tensor:
        """Return the bytes of the clipped values with noise.

        Raises ValueError for NaN and Inf.
        """
        clipped = check_finite(features.detach().cpu()).clamp(0, self.bound)
        return super().encode(clipped if rng is None else clipped + self._draw_noise(rng, clipped.shape), rng)

    def negative_log_likelihood(self, features: torch.Tensor, packed: torch.Tensor) -> torch.Tensor:
        """Return the negative log likelihood by the density of the noise."""
        return self._negative_log_density(self._residual(features.clamp(0, self.bound), packed)).sum(1)


def check_finite(values: torch.Tensor) -> torch.Tensor:
    """Return ``values``, or raise ValueError for NaN and Inf."""
    if problem := find_nonfinite({"a record": values}):
        raise ValueError(problem)
    return values
