"""Measures of the similarity of two images: SSIM and PSNR."""

import torch
from torch.nn import functional

WINDOW_PIXELS = 11
"""Height and width in pixels of SSIM's window, which is the minimum size of an image."""
_WINDOW_SIGMA, _K1, _K2 = 1.5, 0.01, 0.03


def ssim(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the structural similarity [n] of images [n, channels, height, width] of values 0 to 1.

    The value 1 means identical images. Source: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error
    visibility to structural similarity" (IEEE Transactions on Image Processing, 2004), equations 13 to 17. The Gaussian
    window has 11 x 11 pixels and a standard deviation of 1.5, with K1 = 0.01 and K2 = 0.03. The result is the mean over
    the positions at which the window is inside the image, and over channels. Raises ValueError for images that are
    smaller than the window.
    """
    height, width = first.shape[-2:]
    if min(height, width) < WINDOW_PIXELS:
        raise ValueError(
            f"SSIM requires images of at least {WINDOW_PIXELS} x {WINDOW_PIXELS} pixels, got {height} x {width}"
        )
    x, y = (images.to(torch.float64).reshape(-1, 1, height, width) for images in (first, second))
    offsets = torch.arange(WINDOW_PIXELS, dtype=torch.float64) - WINDOW_PIXELS // 2
    line = torch.exp(-(offsets**2) / (2 * _WINDOW_SIGMA**2))
    window = torch.outer(line, line).div(line.sum() ** 2).reshape(1, 1, WINDOW_PIXELS, WINDOW_PIXELS)
    mean_x, mean_y, xx, yy, xy = (functional.conv2d(values, window) for values in (x, y, x * x, y * y, x * y))
    variance_x, variance_y, covariance = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
    c1, c2 = _K1**2, _K2**2
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    denominator = (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    return (numerator / denominator).reshape(len(first), -1).mean(1)


def psnr(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the peak signal-to-noise ratio [n] in dB of images [n, ...] of values 0 to 1; infinite if identical."""
    error = (first.to(torch.float64) - second.to(torch.float64)).square().reshape(len(first), -1).mean(1)
    return -10 * error.log10()
