"""Mean squared error, for regression."""

import torch
from torch.nn import functional

from fedws.core.errors import TaskError
from fedws.core.registry import register
from fedws.training.base import Loss


@register("loss", "mse")
def mse() -> Loss:
    """Return the loss whose value is the mean of ``(outputs - targets) ** 2`` over all values.

    Outputs and targets have the same shape; outputs [n, 1] also match targets [n].
    """
    return _mse


def _mse(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    if outputs.dim() == targets.dim() + 1 and outputs.shape[-1] == 1:
        outputs = outputs.squeeze(-1)
    if outputs.shape != targets.shape:  # torch would broadcast, and so compare outputs with targets of other samples
        raise TaskError(f"mse: outputs have shape {list(outputs.shape)}, targets {list(targets.shape)}")
    return functional.mse_loss(outputs, targets.to(outputs.dtype))
