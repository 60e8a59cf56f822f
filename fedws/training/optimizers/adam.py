"""Adam (Kingma and Ba, 2015, arXiv:1412.6980)."""

from collections.abc import Iterable

import torch

from fedws.core.errors import UsageError
from fedws.core.registry import register


@register("optimizer", "adam")
def adam(
    parameters: Iterable[torch.nn.Parameter],
    lr: float,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """Return an Adam optimizer.

    Its moments start at zero with every request, since an optimizer exists for one local training only. Raises
    UsageError if an option is out of range.
    """
    try:
        return torch.optim.Adam(parameters, lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay)
    except ValueError as error:
        raise UsageError(f"optimizer adam: {error}") from None
