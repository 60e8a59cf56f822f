"""Conversion between the state of an optimizer, such as momenta and moments, and tensors with names."""

import torch

from fedws.core.tensors import Tensors

STATE_PREFIX = "optimizer:"
"""Prefix of the names of these tensors; no tensor name of a model has it."""


def get_state_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """Return the state tensors of ``optimizer``, named by the parameter's number and the optimizer's key."""
    return {
        f"{STATE_PREFIX}{number}:{key}": value
        for number, parameter in enumerate(_list_parameters(optimizer))
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, torch.Tensor)
    }


def load_state_tensors(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Load tensors that ``get_state_tensors`` returned for an optimizer with the same parameters.

    Tensors with other names are ignored.
    """
    parameters = _list_parameters(optimizer)
    for name, tensor in tensors.items():
        if name.startswith(STATE_PREFIX):
            number, key = name.removeprefix(STATE_PREFIX).split(":")
            parameter = parameters[int(number)]
            # Step counts have no dimensions, and torch keeps them on the CPU.
            optimizer.state[parameter][key] = tensor.to(parameter.device if tensor.dim() else "cpu", copy=True)


def _list_parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
