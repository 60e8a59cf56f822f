"""SSIM and PSNR against another implementation's values."""

import math

import pytest
import torch

from fedws.attacks.image_similarity import psnr, ssim

# By scikit-image 0.26: structural_similarity(..., data_range=1.0, channel_axis=0, gaussian_weights=True, sigma=1.5,
# use_sample_covariance=False) and peak_signal_noise_ratio(..., data_range=1.0)
KNOWN = {
    (1, 28, 28): (0.9398662674880953, 19.995606046353174),
    (3, 32, 32): (0.9377936958722843, 20.045437386479897),
    (1, 11, 11): (0.8977675698227843, 20.61572644194927),
    (3, 16, 40): (0.9380470616001096, 19.967784320272518),
}


def waves(channels: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two pictures [1, channels, height, width], alike."""
    sizes = (torch.arange(size, dtype=torch.float64) for size in (channels, height, width))
    c, y, x = torch.meshgrid(*sizes, indexing="ij")
    first = 0.5 + 0.5 * torch.sin(0.7 * x + 0.3 * y + c)
    second = 0.8 * first + 0.2 * (0.5 + 0.5 * torch.cos(1.9 * x * y / 7 + c))
    return first.unsqueeze(0), second.unsqueeze(0)


@pytest.mark.parametrize("shape", KNOWN, ids=str)
def test_values_are_those_of_scikit_image(shape: tuple[int, int, int]) -> None:
    first, second = waves(*shape)
    similarity, ratio = KNOWN[shape]
    assert ssim(first, second).tolist() == pytest.approx([similarity], abs=1e-12)
    assert psnr(first, second).tolist() == pytest.approx([ratio], abs=1e-10)


def test_every_picture_has_a_value_of_its_own() -> None:
    first, second = (torch.cat([one, other]) for one, other in (waves(3, 32, 32), waves(3, 32, 32)[::-1]))
    assert ssim(first, torch.cat([first[:1], second[1:]])).tolist() == pytest.approx([1, KNOWN[3, 32, 32][0]])
    assert psnr(first, torch.cat([first[:1], second[1:]])).tolist() == pytest.approx([math.inf, KNOWN[3, 32, 32][1]])


def test_a_negative_is_unlike() -> None:
    first, _ = waves(1, 28, 28)
    assert float(ssim(first, 1 - first)) < -0.5


def test_a_flat_difference_has_the_ratio_of_its_square() -> None:
    assert psnr(torch.full((1, 1, 4, 4), 0.25), torch.full((1, 1, 4, 4), 0.35)).tolist() == pytest.approx(
        [20], abs=1e-5
    )


@pytest.mark.parametrize("shape", [(1, 1, 10, 28), (1, 1, 28, 10)])
def test_a_picture_below_the_window_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least 11 x 11 pixels"):
        ssim(torch.zeros(shape), torch.zeros(shape))
