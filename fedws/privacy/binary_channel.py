"""A binary channel: what becomes of a bit on its way, and what can be told from what arrived."""

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

from fedws.privacy.secure_noise import Noise, drawable


@dataclass(frozen=True)
class Channel:
    """A 1 arrives as 0 with probability ``lost``, a 0 as 1 with probability ``false``."""

    lost: float
    false: float

    def __post_init__(self) -> None:
        if not (self.lost >= 0 and self.false >= 0 and self.lost + self.false < 1):
            raise ValueError("a bit that arrives would tell nothing: epsilon is too small for 32 random bits")

    @property
    def epsilon(self) -> float:
        """The most that one arrived bit tells: the greatest log ratio of its chances; infinite without noise."""
        if not self.lost or not self.false:
            return math.inf
        return math.log(max((1 - self.lost) / self.false, (1 - self.false) / self.lost))

    def send(self, bits: torch.Tensor, noise: Noise) -> torch.Tensor:
        """Bool of any shape to what arrives."""
        kept = noise.bernoulli(self.lost, bits.shape).logical_not_()
        return torch.where(bits, kept, noise.bernoulli(self.false, bits.shape))

    def estimate(self, arrived: torch.Tensor) -> torch.Tensor:
        """Float32 whose mean over the noise is the bit that was sent: (b - P(1|0)) / (P(1|1) - P(1|0))."""
        return (arrived.to(torch.float32) - self.false) / (1 - self.lost - self.false)

    def likelihood(self, logits: torch.Tensor, arrived: torch.Tensor) -> torch.Tensor:
        """Negative log likelihood of each arrived bit, where sigmoid(logits) is the chance that a 1 was sent."""
        one, zero = functional.logsigmoid(logits), functional.logsigmoid(-logits)
        as_one = torch.logaddexp(one + _log(1 - self.lost), zero + _log(self.false))
        as_zero = torch.logaddexp(one + _log(self.lost), zero + _log(1 - self.false))
        return -torch.where(arrived, as_one, as_zero)


def randomised_response(epsilon: float) -> Channel:
    """Keeps a bit with probability p = e^epsilon / (1 + e^epsilon), and sends its opposite with 1 - p.

    Warner, "Randomized response: a survey technique for eliminating evasive answer bias", 1965.
    """
    flip = drawable(1 / (1 + math.exp(min(epsilon, 700))))
    return Channel(lost=flip, false=flip)


def _log(chance: float) -> float:
    return math.log(chance) if chance else -math.inf
