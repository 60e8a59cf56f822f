"""Negative log-likelihood, for models that end in log_softmax."""

from torch.nn import functional

from fedws.core.registry import register
from fedws.training.base import Loss


@register("loss", "nll")
def nll() -> Loss:
    """Return the loss whose value is the mean of ``-outputs[i, targets[i]]``.

    Outputs are log-probabilities [n, classes], targets int64 [n].
    """
    return functional.nll_loss
