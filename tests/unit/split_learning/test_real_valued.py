"""Float32 records, and noise on clipped ones."""

import math
import struct

import pytest
import torch

from fedws.privacy.secure_noise import SecureRandom
from fedws.split_learning.real_valued import FloatEncoding, NoisyFloatEncoding
from tests.helpers.statistics import seeded

BAD = [math.nan, math.inf, -math.inf]


def noisy(bound: float = 2.0, scale: float = 0.5) -> NoisyFloatEncoding:
    return NoisyFloatEncoding(bound, scale, lambda noise, shape: noise.laplace(scale, shape), torch.abs, epsilon=1.0)


def test_bytes_are_little_endian_floats() -> None:
    packed = FloatEncoding().encode(torch.tensor([[1.5, -2.25]]), None)
    assert bytes(packed[0].tolist()) == struct.pack("<2f", 1.5, -2.25)
    assert FloatEncoding().decode(packed, (2, 1)).tolist() == [[[1.5], [-2.25]]]


def test_a_slice_of_a_store_is_decoded() -> None:
    store = torch.zeros(3, 12, dtype=torch.uint8)
    store[:, 2:10] = FloatEncoding().encode(torch.tensor([[1.5, -2.25]]), None)
    assert FloatEncoding().decode(store[:, 2:10], (2,)).tolist() == [[1.5, -2.25]] * 3


@pytest.mark.parametrize("value", BAD)
def test_what_is_no_number_is_neither_sent_nor_taken(value: float) -> None:
    features = torch.tensor([[1.0, value]])
    for encoding in (FloatEncoding(), noisy()):
        with pytest.raises(ValueError, match=r"a record contains (NaN|Inf)"):
            encoding.encode(features, SecureRandom())
        with pytest.raises(ValueError, match=r"a record contains (NaN|Inf)"):
            encoding.decode(torch.tensor(list(struct.pack("<2f", 1.0, value)), dtype=torch.uint8)[None], (2,))


def test_values_are_clipped_before_the_noise_and_not_after() -> None:
    features = torch.tensor([[-3.0, 0.5, 7.0]])
    encoding = noisy()
    assert encoding.decode(encoding.encode(features, None), (3,)).tolist() == [[0.0, 0.5, 2.0]]
    wanted = torch.tensor([[0.0, 0.5, 2.0]]) + seeded().laplace(0.5, (1, 3))
    assert torch.equal(encoding.decode(encoding.encode(features, seeded()), (3,)), wanted.to(torch.float32))
    many = encoding.decode(encoding.encode(features.expand(1000, 3), seeded()), (3,))
    assert float(many.min()) < 0 and float(many.max()) > 2


def test_what_noise_would_surprise_is_the_likelihood_of_a_clipped_value() -> None:
    features = torch.tensor([[-3.0, 0.5, 7.0]], requires_grad=True)
    found = noisy().negative_log_likelihood(features, FloatEncoding().encode(torch.tensor([[0.25, 1.0, 1.0]]), None))
    assert found.tolist() == [0.25 + 0.5 + 1.0]
    found.sum().backward()
    assert features.grad is not None and features.grad.tolist() == [[0, -1, 0]]


@pytest.mark.parametrize(
    ("bound", "scale"), [(1.0, 1e37), (1e39, 1.0), (1.0, math.inf), (1.0, 0.0), (1.0, 1e-7), (1.0, 1e7), (1e300, 1e300)]
)
def test_noise_that_floats_cannot_hold_is_refused(bound: float, scale: float) -> None:
    with pytest.raises(ValueError, match=r"float32 cannot represent noise of scale .* on values up to"):
        noisy(bound, scale)
