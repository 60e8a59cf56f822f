"""How alike two pictures are: SSIM and PSNR."""

import torch
from torch.nn import functional

WINDOW_PIXELS = 11
"""Pixels of SSIM's window, in height and width: the least that a picture must have."""
_WINDOW_SIGMA, _K1, _K2 = 1.5, 0.01, 0.03


def ssim(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Structural similarity [n] of pictures [n, channels, height, width] of values 0 to 1; 1: the same picture.

    Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity" (IEEE
    Transactions on Image Processing, 2004), equations 13 to 17: a Gaussian window of 11 x 11 with a standard deviation
    of 1.5, K1 = 0.01, K2 = 0.03; the mean over the places where the window is whole, and over channels.
    Raises ValueError for pictures that are smaller than the window.
    """
    height, width = first.shape[-2:]
    if min(height, width) < WINDOW_PIXELS:
        raise ValueError(
            f"SSIM wants pictures of at least {WINDOW_PIXELS} x {WINDOW_PIXELS} pixels, not {height} x {width}"
        )
    x, y = (picture.to(torch.float64).reshape(-1, 1, height, width) for picture in (first, second))
    offsets = torch.arange(WINDOW_PIXELS, dtype=torch.float64) - WINDOW_PIXELS // 2
    line = torch.exp(-(offsets**2) / (2 * _WINDOW_SIGMA**2))
    window = torch.outer(line, line).div(line.sum() ** 2).reshape(1, 1, WINDOW_PIXELS, WINDOW_PIXELS)
    mean_x, mean_y, xx, yy, xy = (functional.conv2d(values, window) for values in (x, y, x * x, y * y, x * y))
    variance_x, variance_y, covariance = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
    c1, c2 = _K1**2, _K2**2
    same = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    whole = (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    return (same / whole).reshape(len(first), -1).mean(1)


def psnr(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio [n] in dB of pictures [n, ...] of values 0 to 1; infinite for the same picture."""
    error = (first.to(torch.float64) - second.to(torch.float64)).square().reshape(len(first), -1).mean(1)
    return -10 * error.log10()
