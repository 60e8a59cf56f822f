"""Ways to spoil the tensors of a result, by the name of what is wrong with them."""

import math
from collections.abc import Callable, Mapping

import torch

from fedws.core.tensors import Tensors

NAN, INF = math.nan, math.inf
SPOILS: Mapping[str, Callable[[Tensors], Tensors]] = {
    "nothing": lambda tensors: {},
    "NaN": lambda tensors: {**tensors, **filled(tensors, NAN)},
    "Inf": lambda tensors: {**tensors, **filled(tensors, -INF)},
    "one more": lambda tensors: {**tensors, "more\x1b[2J\n": torch.ones(1)},
    "other names": lambda tensors: {f"{key}\n": tensor for key, tensor in tensors.items()},
    "a dimension more": lambda tensors: {key: tensor[..., None] for key, tensor in tensors.items()},
    "other shapes": lambda tensors: {key: tensor.flatten()[:1] for key, tensor in tensors.items()},
    "other dtypes": lambda tensors: {key: tensor.to(torch.float64) for key, tensor in tensors.items()},
}


def filled(tensors: Tensors, value: float) -> Tensors:
    """Return the tensors with one such value in the last float tensor."""
    name = [key for key, tensor in tensors.items() if tensor.is_floating_point()][-1]
    spoilt = tensors[name].clone()
    spoilt.view(-1)[-1] = value
    return {name: spoilt}
