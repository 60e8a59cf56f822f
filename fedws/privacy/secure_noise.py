"""Randomness for privacy: from the operating system, never from a seed that somebody else may know."""

import math
import os
from collections.abc import Callable, Sequence

import numpy as np
import torch

_BLOCK_DRAWS = 2**20
"""Draws at a time, so that memory stays flat."""
_RESOLUTION = 2**32


def representable_probability(probability: float) -> float:
    """The chance that is drawn where ``probability`` is asked for: a multiple of 2^-32 that is above it, and never 0.

    A mechanism asks for the chance of an untruth, which then is never below what its epsilon wants. The part of a step
    that is added covers the rounding of ``probability`` itself. Nothing is ever sent for certain: where two answers are
    possible, the epsilon is 22.2 at most. Raises ValueError unless ``probability`` is from 0 to 1.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"{probability} is no probability")
    return min(_RESOLUTION, math.ceil(probability * _RESOLUTION + 2**-16)) / _RESOLUTION


class SecureRandom:
    """Draws, all independent, made of the bytes that ``source(count)`` gives.

    ``bernoulli`` and ``integers`` are exact. ``laplace`` and ``normal`` are float64 numbers, not the real numbers of
    which their mechanisms' proofs speak: a sum with such noise can have last bits that give away what was added to
    (Mironov, "On significance of the least significant bits for differential privacy", 2012). Rounding the sum to
    float32 covers most of these bits, but no proof does: where epsilon must hold to the letter, send bits.
    """

    def __init__(self, source: Callable[[int], bytes] = os.urandom) -> None:
        self._source = source

    def bernoulli(self, probability: float, shape: Sequence[int]) -> torch.Tensor:
        """Bool of ``shape``, each true with probability ``probability``, rounded up to a multiple of 2^-32."""
        high, low = divmod(math.ceil(probability * _RESOLUTION), 2**24)

        def draw(count: int) -> np.ndarray:
            first = self._random_words(count, np.uint8)
            drawn = first < high
            ties = np.flatnonzero(first == high)  # one in 256 wants its other 24 bits
            drawn[ties] = self._random_words(ties.size, np.uint32) >> 8 < low
            return drawn

        return _fill(draw, shape, torch.bool)

    def integers(self, high: int, shape: Sequence[int]) -> torch.Tensor:
        """Int64 of ``shape``, from 0 to ``k - 1`` with the same chance; ``high`` is from 1 to 2^32 - 1."""
        most = _RESOLUTION // high * high

        def draw(count: int) -> np.ndarray:
            words = self._random_words(count, np.uint32).copy()
            while (beyond := np.flatnonzero(words >= most)).size:  # the remainder would favour the small ones
                words[beyond] = self._random_words(beyond.size, np.uint32)
            return words % high

        return _fill(draw, shape, torch.int64)

    def laplace(self, scale: float, shape: Sequence[int]) -> torch.Tensor:
        """Float64 of ``shape``, with density ``exp(-|x| / scale) / (2 scale)``; at most 36.8 ``scale`` from 0."""
        return self._draw_symmetric(lambda unit: -scale * np.log(unit), shape)

    def normal(self, sigma: float, shape: Sequence[int]) -> torch.Tensor:
        """Float64 of ``shape``, from N(0, sigma^2); at most 8.3 ``sigma`` from 0."""
        return self._draw_symmetric(
            lambda unit: -sigma * torch.special.ndtri(torch.from_numpy(unit / 2)).numpy(), shape
        )

    def _draw_symmetric(self, magnitude: Callable[[np.ndarray], np.ndarray], shape: Sequence[int]) -> torch.Tensor:
        """A random sign on ``size(unit)``; unit is uniform above 0 and up to 1, and the chance of so large a size."""

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
