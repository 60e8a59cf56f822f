"""Protocol of feature encodings."""

from collections.abc import Sequence
from typing import Protocol

import torch

from fedws.privacy.secure_noise import SecureRandom


class FeatureEncoding(Protocol):
    """A conversion between features and the bytes that leave a worker, one record at a time.

    The factory ``(*, options)`` is registered as ``encoding``. Methods raise ValueError for bytes that do not fit,
    which a peer may send.
    """

    @property
    def epsilon(self) -> float | None:
        """Return the epsilon that one encoding with noise spends per feature value.

        None stands for an encoding without a privacy mechanism, and therefore without a bound.
        """

    @property
    def delta(self) -> float:
        """Return the probability, per feature value, that epsilon does not hold; usually 0."""

    def encoded_bytes(self, num_values: int) -> int:
        """Return the size of a record of ``num_values`` feature values in bytes."""

    def encode(self, features: torch.Tensor, rng: SecureRandom | None) -> torch.Tensor:
        """Encode features, float [n, *shape], as uint8 [n, encoded_bytes].

        Without ``rng``, no noise is added. The result is then for evaluation only and must not leave the node.
        """

    def decode(self, packed: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Decode uint8 [n, encoded_bytes] to float32 [n, *shape], on which the head is trained and evaluated."""

    def estimate(self, packed: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Return float32 [n, *shape] whose mean over the noise is the output of ``decode`` without noise.

        An attack uses this unbiased estimate, so that the noise does not put it at a disadvantage.
        """

    def negative_log_likelihood(self, features: torch.Tensor, packed: torch.Tensor) -> torch.Tensor:
        """Return the negative log likelihood [n] of the bytes as encodings of ``features``, float [n, *shape].

        An attack uses it. It has a gradient with respect to ``features``, for which a step in the encoding is smoothed.
        """
