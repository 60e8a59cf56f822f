"""What an optimizer remembers from step to step (momenta, moments), as tensors with names, and back."""

import torch

from fedws.core.tensors import Tensors

STATE_PREFIX = "optimizer:"
"""What the names begin with, which no model's do."""


def get_state_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """Everything that it remembers, by the number of the parameter and the optimizer's own name for it."""
    return {
        f"{STATE_PREFIX}{number}:{key}": value
        for number, parameter in enumerate(_list_parameters(optimizer))
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, torch.Tensor)
    }


def load_state_tensors(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Give it what :func:`get_state_tensors` gave of one with the same parameters; other names are passed over."""
    parameters = _list_parameters(optimizer)
    for name, tensor in tensors.items():
        if name.startswith(STATE_PREFIX):
            number, key = name.removeprefix(STATE_PREFIX).split(":")
            parameter = parameters[int(number)]
            # a count of steps has no dimensions, and stays on the CPU
            optimizer.state[parameter][key] = tensor.to(parameter.device if tensor.dim() else "cpu", copy=True)


def _list_parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
