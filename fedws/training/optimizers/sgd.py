"""Stochastic gradient descent."""

from collections.abc import Iterable

import torch

from fedws.core.registry import register


@register("optimizer", "sgd")
def sgd(
    parameters: Iterable[torch.nn.Parameter],
    lr: float,
    *,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> torch.optim.Optimizer:
    """Return an SGD optimizer.

    Without momentum and weight decay it is plain SGD, which the demo uses.
    """
    return torch.optim.SGD(parameters, lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)
