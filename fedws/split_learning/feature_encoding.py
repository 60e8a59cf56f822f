"""The protocol of encodings."""

from collections.abc import Sequence
from typing import Protocol

import torch

from fedws.privacy.secure_noise import SecureRandom


class FeatureEncoding(Protocol):
    """How features become the bytes that leave a worker, a record at a time. Factory ``(*, options)``, registered as

    ``encoding``. Bytes that do not fit, as a peer may send them, raise ValueError.
    """

    @property
    def epsilon(self) -> float | None:
        """Spent for each feature value, in one encoding with noise; None: there is no mechanism, and so no bound."""

    @property
    def delta(self) -> float:
        """Likewise spent for each feature value: the chance that epsilon does not hold; mostly 0."""

    def encoded_bytes(self, num_values: int) -> int:
        """Bytes of a record of so many values."""

    def encode(self, features: torch.Tensor, rng: SecureRandom | None) -> torch.Tensor:
        """Features, float [n, *shape], to uint8 [n, size]; without noise they are for scoring, and must not leave."""

    def decode(self, packed: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Uint8 [n, size] to float32 [n, *shape]: what the head is trained and scored on."""

    def estimate(self, packed: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Float32 [n, *shape] whose mean over the noise is what decode gives without: for a fair attack."""

    def negative_log_likelihood(self, features: torch.Tensor, packed: torch.Tensor) -> torch.Tensor:
        """Negative log likelihood [n] of the bytes if ``features``, float [n, *shape], were encoded: likewise.

        It has a gradient with respect to ``features``; a step in the encoding is made smooth.
        """
