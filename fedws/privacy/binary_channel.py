"""A binary channel: what becomes of a bit on its way, and what can be told from what arrived."""

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

from fedws.privacy.secure_noise import SecureRandom, representable_probability


@dataclass(frozen=True)
class BinaryChannel:
    """A 1 arrives as 0 with probability ``p10``, a 0 as 1 with probability ``p01``."""

    p10: float
    p01: float

    def __post_init__(self) -> None:
        if not (self.p10 >= 0 and self.p01 >= 0 and self.p10 + self.p01 < 1):
            raise ValueError("a bit that arrives would tell nothing: epsilon is too small for 32 random bits")

    @property
    def epsilon(self) -> float:
        """The most that one arrived bit tells: the greatest log ratio of its chances; infinite without noise."""
        if not self.p10 or not self.p01:
            return math.inf
        return math.log(max((1 - self.p10) / self.p01, (1 - self.p01) / self.p10))

    def send(self, bits: torch.Tensor, rng: SecureRandom) -> torch.Tensor:
        """Bool of any shape to what arrives."""
        kept = rng.bernoulli(self.p10, bits.shape).logical_not_()
        return torch.where(bits, kept, rng.bernoulli(self.p01, bits.shape))

    def estimate(self, received: torch.Tensor) -> torch.Tensor:
        """Float32 whose mean over the noise is the bit that was sent: (b - P(1|0)) / (P(1|1) - P(1|0))."""
        return (received.to(torch.float32) - self.p01) / (1 - self.p10 - self.p01)

    def negative_log_likelihood(self, logits: torch.Tensor, received: torch.Tensor) -> torch.Tensor:
        """Negative log likelihood of each arrived bit, where sigmoid(logits) is the chance that a 1 was sent."""
        one, zero = functional.logsigmoid(logits), functional.logsigmoid(-logits)
        as_one = torch.logaddexp(one + _log(1 - self.p10), zero + _log(self.p01))
        as_zero = torch.logaddexp(one + _log(self.p10), zero + _log(1 - self.p01))
        return -torch.where(received, as_one, as_zero)


def randomised_response(epsilon: float) -> BinaryChannel:
    """Keeps a bit with probability p = e^epsilon / (1 + e^epsilon), and sends its opposite with 1 - p.

    Warner, "Randomized response: a survey technique for eliminating evasive answer bias", 1965.
    """
    flip = representable_probability(1 / (1 + math.exp(min(epsilon, 700))))
    return BinaryChannel(p10=flip, p01=flip)


def _log(probability: float) -> float:
    return math.log(probability) if probability else -math.inf
