"""Random shifts of feature maps, an augmentation that does not need the images.

Wang et al., "MistNet", section on training at the server. Workers send the features of each image once, so the
features are shifted instead of the image.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional


def find_shift_problem(feature_shape: Sequence[int], max_shift: int) -> str:
    """Return why features of ``feature_shape`` cannot be shifted by ``max_shift``, or an empty string."""
    if not max_shift or (len(feature_shape) == 3 and max_shift < min(feature_shape[1:])):
        return ""
    return f"feature_shift={max_shift}: features of shape {list(feature_shape)} cannot be shifted this far"


def shift_features(features: torch.Tensor, max_shift: int, generator: torch.Generator) -> torch.Tensor:
    """Shift each of ``features``, [n, channels, height, width], by up to ``max_shift`` positions in both dimensions.

    Zeros fill the positions that become free.
    """
    count, _, height, width = features.shape
    padded = functional.pad(features, [max_shift] * 4)
    tops, lefts = torch.randint(2 * max_shift + 1, (2, count), generator=generator).tolist()
    windows = [
        whole[:, top : top + height, left : left + width] for whole, top, left in zip(padded, tops, lefts, strict=True)
    ]
    return torch.stack(windows)
