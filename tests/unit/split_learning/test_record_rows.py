import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedws.split_learning.bit_packing import check_record_size, flatten_features


@given(n=st.integers(0, 3), shape=st.lists(st.integers(0, 4), max_size=4))
def test_a_record_is_a_row(n: int, shape: list[int]) -> None:
    features = torch.arange(n * torch.Size(shape).numel(), dtype=torch.float32).reshape(n, *shape)
    found = flatten_features(features)
    assert found.shape == (n, torch.Size(shape).numel())
    for row, record in zip(found, features, strict=True):
        assert torch.equal(row, record.flatten())


def test_the_size_that_is_wanted_is_told() -> None:
    check_record_size(torch.zeros(4, 3, dtype=torch.uint8), 3)
    with pytest.raises(ValueError, match=r"^wrong size: records must be uint8 \[n, 3\], not float32 \[4, 3\]$"):
        check_record_size(torch.zeros(4, 3), 3)
