"""Labels with k-ary randomised response, and the loss that corrects for it.

Warner, "Randomized response: a survey technique for eliminating evasive answer bias", 1965; for k classes Kairouz,
Bonawitz, Ramage, "Discrete distribution estimation under local privacy" (ICML 2016). A label is kept with probability
p = e^epsilon / (e^epsilon + k - 1). Each of the other labels is sent with probability q = 1 / (e^epsilon + k - 1).
An equivalent rule, which this module uses: with probability ``k q`` draw a label from all k, else keep the label.
"""

import math

import torch
from torch.nn import functional

from fedws.core.errors import UsageError
from fedws.privacy.secure_noise import SecureRandom, representable_probability


def randomise_labels(labels: torch.Tensor, num_classes: int, epsilon: float | None, rng: SecureRandom) -> torch.Tensor:
    """Return randomised ``labels``, int64 [n] from 0 to ``num_classes - 1``.

    ``epsilon`` is an upper bound on the privacy spent for one label. None returns the labels unchanged. Raises
    ValueError for a label outside the range.
    """
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(f"labels must be from 0 to {num_classes - 1}")
    if epsilon is None:
        return labels
    resampled = rng.bernoulli(resample_probability(num_classes, epsilon), labels.shape)
    return torch.where(resampled, rng.integers(num_classes, labels.shape), labels)


def resample_probability(num_classes: int, epsilon: float) -> float:
    """Return ``k q``, the probability that a label is replaced by one drawn from all k classes.

    Raises UsageError if ``epsilon`` is so small that labels carry no information.
    """
    shrunk = math.exp(-epsilon)
    chance = representable_probability(num_classes * shrunk / (1 + (num_classes - 1) * shrunk))
    if chance == 1:
        raise UsageError(f"label epsilon {epsilon:g} is too small: a label would carry no information")
    return chance


def forward_corrected_loss(outputs: torch.Tensor, labels: torch.Tensor, epsilon: float | None) -> torch.Tensor:
    """Return the mean of ``-log(q + (p - q) softmax_y)`` over randomised labels y.

    Outputs are log-probabilities [n, classes], labels int64 [n]. With ``epsilon`` None the labels are clear, and the
    result is the negative log likelihood. This is the forward correction of Patrini et al., "Making deep neural
    networks robust to label noise" (CVPR 2017), section 4.2. By its Theorem 2, the minimiser is the same as that of the
    negative log likelihood on clear labels.
    """
    if epsilon is None:
        return functional.nll_loss(outputs, labels)
    classes = outputs.shape[1]
    resample = resample_probability(classes, epsilon)
    kept = outputs.gather(1, labels.unsqueeze(1)).squeeze(1) + math.log1p(-resample)
    drawn = torch.full_like(kept, math.log(resample / classes))
    return -torch.logaddexp(kept, drawn).mean()
