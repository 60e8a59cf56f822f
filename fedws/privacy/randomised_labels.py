"""Labels that may be untrue: k-ary randomised response, and the loss that reckons with it.

Warner, "Randomized response: a survey technique for eliminating evasive answer bias", 1965; for k classes Kairouz,
Bonawitz, Ramage, "Discrete distribution estimation under local privacy" (ICML 2016). A label is kept with probability
p = e^epsilon / (e^epsilon + k - 1), and any other one is sent with q = 1 / (e^epsilon + k - 1). Which is the same as:
with probability ``k q`` it is drawn anew from all k, else kept.
"""

import math

import torch
from torch.nn import functional

from fedws.core.errors import UsageError
from fedws.privacy.secure_noise import SecureRandom, representable_probability


def randomise_labels(labels: torch.Tensor, num_classes: int, epsilon: float | None, rng: SecureRandom) -> torch.Tensor:
    """Labels, int64 [n] from 0 to ``classes - 1``, as they may leave; ``epsilon`` None leaves them clear.

    ``epsilon`` is of one label, and never more is spent. Raises ValueError for a label that is no class.
    """
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(f"labels must be from 0 to {num_classes - 1}")
    if epsilon is None:
        return labels
    anew = rng.bernoulli(resample_probability(num_classes, epsilon), labels.shape)
    return torch.where(anew, rng.integers(num_classes, labels.shape), labels)


def resample_probability(num_classes: int, epsilon: float) -> float:
    """k q: the chance that a label is drawn anew. Raises UsageError where labels would tell nothing."""
    shrunk = math.exp(-epsilon)
    chance = representable_probability(num_classes * shrunk / (1 + (num_classes - 1) * shrunk))
    if chance == 1:
        raise UsageError(f"label epsilon {epsilon:g} is too small: a label would tell nothing")
    return chance


def forward_corrected_loss(outputs: torch.Tensor, labels: torch.Tensor, epsilon: float | None) -> torch.Tensor:
    """Mean of ``-log(q + (p - q) softmax_y)`` over randomised labels y; ``epsilon`` None: they are clear.

    Outputs are log-probabilities [n, classes], labels int64 [n]. This is the forward correction of Patrini et al.,
    "Making deep neural networks robust to label noise" (CVPR 2017), section 4.2; by its Theorem 2 the minimiser is that
    of the negative log likelihood on clear labels.
    """
    if epsilon is None:
        return functional.nll_loss(outputs, labels)
    classes = outputs.shape[1]
    anew = resample_probability(classes, epsilon)
    kept = outputs.gather(1, labels.unsqueeze(1)).squeeze(1) + math.log1p(-anew)
    drawn = torch.full_like(kept, math.log(anew / classes))
    return -torch.logaddexp(kept, drawn).mean()
