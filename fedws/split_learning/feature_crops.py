"""Random crops of feature maps: the augmentation that is left when pictures stay where they are.

Wang et al., "MistNet", section on training at the server: workers send each picture once, so it is the features that
are shifted.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional


def problem(shape: Sequence[int], most: int) -> str:
    """Why features of that shape cannot be cropped so far; empty when they can."""
    if not most or (len(shape) == 3 and most < min(shape[1:])):
        return ""
    return f"crop={most}: features of the shape {list(shape)} cannot be shifted so far"


def cropped(features: torch.Tensor, most: int, generator: torch.Generator) -> torch.Tensor:
    """Each of ``features``, [n, channels, height, width], shifted by up to ``most`` both ways, with zeros behind it."""
    count, _, height, width = features.shape
    padded = functional.pad(features, [most] * 4)
    tops, lefts = torch.randint(2 * most + 1, (2, count), generator=generator).tolist()
    windows = [
        whole[:, top : top + height, left : left + width] for whole, top, left in zip(padded, tops, lefts, strict=True)
    ]
    return torch.stack(windows)
