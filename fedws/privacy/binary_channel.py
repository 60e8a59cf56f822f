"""A noisy binary channel, with the estimator and the likelihood for the bits that it delivers."""

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

from fedws.privacy.secure_noise import SecureRandom, representable_probability


@dataclass(frozen=True)
class BinaryChannel:
    """A channel that flips bits at random."""

    p10: float
    """Probability that a 1 is received as 0."""
    p01: float
    """Probability that a 0 is received as 1."""

    def __post_init__(self) -> None:
        if not (self.p10 >= 0 and self.p01 >= 0 and self.p10 + self.p01 < 1):
            raise ValueError("epsilon is too small for 32 random bits: a received bit would carry no information")

    @property
    def epsilon(self) -> float:
        """Privacy loss of one bit: the largest log ratio of the probabilities of what is received.

        Infinite without noise.
        """
        if not self.p10 or not self.p01:
            return math.inf
        return math.log(max((1 - self.p10) / self.p01, (1 - self.p01) / self.p10))

    def send(self, bits: torch.Tensor, rng: SecureRandom) -> torch.Tensor:
        """Return the received bits for ``bits``, bool of any shape."""
        kept = rng.bernoulli(self.p10, bits.shape).logical_not_()
        return torch.where(bits, kept, rng.bernoulli(self.p01, bits.shape))

    def estimate(self, received: torch.Tensor) -> torch.Tensor:
        """Return unbiased estimates, float32, of the bits that were sent.

        The estimate for a received bit b is (b - P(1|0)) / (P(1|1) - P(1|0)). Its mean over the noise is the bit sent.
        """
        return (received.to(torch.float32) - self.p01) / (1 - self.p10 - self.p01)

    def negative_log_likelihood(self, logits: torch.Tensor, received: torch.Tensor) -> torch.Tensor:
        """Return the negative log likelihood of each received bit.

        ``sigmoid(logits)`` is the probability that a 1 was sent.
        """
        one, zero = functional.logsigmoid(logits), functional.logsigmoid(-logits)
        as_one = torch.logaddexp(one + _log(1 - self.p10), zero + _log(self.p01))
        as_zero = torch.logaddexp(one + _log(self.p10), zero + _log(1 - self.p01))
        return -torch.where(received, as_one, as_zero)


def randomised_response(epsilon: float) -> BinaryChannel:
    """Return a channel that keeps a bit with probability p = e^epsilon / (1 + e^epsilon), and flips it with 1 - p.

    Warner, "Randomized response: a survey technique for eliminating evasive answer bias", 1965.
    """
    flip = representable_probability(1 / (1 + math.exp(min(epsilon, 700))))
    return BinaryChannel(p10=flip, p01=flip)


def _log(probability: float) -> float:
    return math.log(probability) if probability else -math.inf
