"""Random shifts of feature maps: shifted, all alike in a sample, and nothing made up."""

import torch

from fedws.split_learning.feature_shift import shift_features


def test_each_map_is_shifted_as_a_whole_and_the_rest_is_zero() -> None:
    features = torch.rand(200, 3, 5, 7, generator=torch.Generator().manual_seed(1)) + 1
    found = shift_features(features, 2, torch.Generator().manual_seed(2))
    assert found.shape == features.shape
    shifts = set()
    for before, after in zip(features, found, strict=True):
        matches = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if torch.equal(after, shifted(before, down, right))
        ]
        assert len(matches) == 1
        shifts.update(matches)
    assert len(shifts) == 25, "every shift occurs"


def shifted(features: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """By hand."""
    moved = torch.zeros_like(features)
    _, height, width = features.shape
    for y in range(height):
        for x in range(width):
            if 0 <= y - down < height and 0 <= x - right < width:
                moved[:, y, x] = features[:, y - down, x - right]
    return moved


def test_no_shift_leaves_them_as_they_are() -> None:
    features = torch.rand(4, 2, 3, 3)
    assert torch.equal(shift_features(features, 0, torch.Generator()), features)
