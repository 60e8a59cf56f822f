"""Randomness for privacy, drawn from the operating system and never from a seed that another party may have."""

import math
import os
from collections.abc import Callable, Sequence

import numpy as np
import torch

_BLOCK_DRAWS = 2**20
"""Number of draws at a time, which bounds the memory."""
_RESOLUTION = 2**32
"""Resolution of probabilities, which are multiples of 2^-32."""


def representable_probability(probability: float) -> float:
    """Return ``probability`` rounded up to a multiple of 2^-32, which is never 0.

    A mechanism requests the probability of a false value. Rounding up keeps it at or above the probability that epsilon
    requires. The added 2^-16 of a step covers the rounding error of ``probability`` itself. No value is sent with
    certainty: with two possible values, epsilon is at most 22.2. Raises ValueError unless ``probability`` is from 0 to
    1.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"{probability} is not a valid probability; it must be from 0 to 1")
    return min(_RESOLUTION, math.ceil(probability * _RESOLUTION + 2**-16)) / _RESOLUTION


class SecureRandom:
    """A generator of independent draws from the bytes that ``source(count)`` returns.

    ``bernoulli`` and ``integers`` are exact. ``laplace`` and ``normal`` return float64 numbers, but the proofs of their
    mechanisms assume real numbers. The last bits of a sum with such noise can reveal the value that the noise was added
    to (Mironov, "On significance of the least significant bits for differential privacy", 2012). Rounding the sum to
    float32 hides most of these bits, but this is not proved. Send bits if epsilon must hold exactly.
    """

    def __init__(self, source: Callable[[int], bytes] = os.urandom) -> None:
        self._source = source

    def bernoulli(self, probability: float, shape: Sequence[int]) -> torch.Tensor:
        """Return bools of ``shape``, each true with ``probability``, rounded up to a multiple of 2^-32."""
        high, low = divmod(math.ceil(probability * _RESOLUTION), 2**24)

        def draw(count: int) -> np.ndarray:
            first = self._random_words(count, np.uint8)
            drawn = first < high
            ties = np.flatnonzero(first == high)  # 1 of 256 draws is decided by its other 24 bits
            drawn[ties] = self._random_words(ties.size, np.uint32) >> 8 < low
            return drawn

        return _fill(draw, shape, torch.bool)

    def integers(self, high: int, shape: Sequence[int]) -> torch.Tensor:
        """Return int64 of ``shape``, uniform from 0 to ``high - 1``; ``high`` is from 1 to 2^32 - 1."""
        most = _RESOLUTION // high * high

        def draw(count: int) -> np.ndarray:
            words = self._random_words(count, np.uint32).copy()
            while (beyond := np.flatnonzero(words >= most)).size:  # they would make small results more likely
                words[beyond] = self._random_words(beyond.size, np.uint32)
            return words % high

        return _fill(draw, shape, torch.int64)

    def laplace(self, scale: float, shape: Sequence[int]) -> torch.Tensor:
        """Return float64 of ``shape`` with density ``exp(-|x| / scale) / (2 scale)``, at most 36.8 ``scale`` from 0."""
        return self._draw_symmetric(lambda unit: -scale * np.log(unit), shape)

    def normal(self, sigma: float, shape: Sequence[int]) -> torch.Tensor:
        """Return float64 of ``shape`` from N(0, sigma^2), at most 8.3 ``sigma`` from 0."""
        return self._draw_symmetric(
            lambda unit: -sigma * torch.special.ndtri(torch.from_numpy(unit / 2)).numpy(), shape
        )

    def _draw_symmetric(self, magnitude: Callable[[np.ndarray], np.ndarray], shape: Sequence[int]) -> torch.Tensor:
        """Return ``magnitude(unit)`` with random signs, float64 of ``shape``.

        ``unit`` is uniform above 0 and up to 1. It is the probability of a magnitude at least as large.
        """

        def draw(count: int) -> np.ndarray:
            words = self._random_words(count, np.uint64)
            unit = ((words >> 11) + 1) * 2.0**-53
            signed: np.ndarray = np.where(words & 1, -1.0, 1.0) * magnitude(unit)
            return signed

        return _fill(draw, shape, torch.float64)

    def _random_words(self, count: int, dtype: type[np.unsignedinteger]) -> np.ndarray:
        return np.frombuffer(self._source(count * np.dtype(dtype).itemsize), dtype)


def _fill(draw: Callable[[int], np.ndarray], shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    filled = torch.empty(tuple(shape), dtype=dtype)
    flat = filled.view(-1).numpy()
    for start in range(0, flat.size, _BLOCK_DRAWS):
        flat[start : start + _BLOCK_DRAWS] = draw(min(_BLOCK_DRAWS, flat.size - start))
    return filled
