"""Records as rows: what an encoding works on, and the bytes of one."""

import math

import torch


def rows(features: torch.Tensor) -> torch.Tensor:
    """Features [n, *shape] as [n, values]."""
    return features.reshape(len(features), math.prod(features.shape[1:]))


def check(packed: torch.Tensor, size: int) -> None:
    """Raises ValueError unless ``packed`` is uint8 [n, size]."""
    if packed.dtype != torch.uint8 or packed.dim() != 2 or packed.shape[1] != size:
        found = f"{str(packed.dtype).removeprefix('torch.')} {list(packed.shape)}"
        raise ValueError(f"wrong size: records must be uint8 [n, {size}], not {found}")
