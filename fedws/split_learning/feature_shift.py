"""Random shifts of feature maps: the augmentation that is left when pictures stay where they are.

Wang et al., "MistNet", section on training at the server: workers send each picture once, so it is the features that
are shifted.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional


def find_shift_problem(feature_shape: Sequence[int], max_shift: int) -> str:
    """Why features of that shape cannot be shifted so far; empty if they can."""
    if not max_shift or (len(feature_shape) == 3 and max_shift < min(feature_shape[1:])):
        return ""
    return f"feature_shift={max_shift}: features of the shape {list(feature_shape)} cannot be shifted so far"


def shift_features(features: torch.Tensor, max_shift: int, generator: torch.Generator) -> torch.Tensor:
    """Each of ``features``, [n, channels, height, width], shifted by up to ``max_shift`` both ways, with zeros behind
    it."""
    count, _, height, width = features.shape
    padded = functional.pad(features, [max_shift] * 4)
    tops, lefts = torch.randint(2 * max_shift + 1, (2, count), generator=generator).tolist()
    windows = [
        whole[:, top : top + height, left : left + width] for whole, top, left in zip(padded, tops, lefts, strict=True)
    ]
    return torch.stack(windows)
