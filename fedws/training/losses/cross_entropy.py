"""Cross entropy, for models that give scores of classes (logits)."""

from torch.nn import functional

from fedws.core.registry import register
from fedws.training.base import Loss


@register("loss", "cross_entropy")
def cross_entropy() -> Loss:
    """Mean of ``-log softmax(outputs[i])[targets[i]]``; outputs are scores [n, classes], targets int64 [n].

    On log-probabilities, which softmax leaves as they are, it equals ``nll``.
    """
    return functional.cross_entropy
