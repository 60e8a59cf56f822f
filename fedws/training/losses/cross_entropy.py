"""Cross entropy, for models that return logits."""

from torch.nn import functional

from fedws.core.registry import register
from fedws.training.base import Loss


@register("loss", "cross_entropy")
def cross_entropy() -> Loss:
    """Return the loss whose value is the mean of ``-log softmax(outputs[i])[targets[i]]``.

    Outputs are logits [n, classes], targets int64 [n]. On log-probabilities, which log softmax does not change, the
    loss equals ``nll``.
    """
    return functional.cross_entropy
