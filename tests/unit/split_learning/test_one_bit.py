import dataclasses

import torch

from fedws.privacy.binary_channel import BinaryChannel, randomised_response
from fedws.split_learning.one_bit import OneBitEncoding
from tests.helpers.statistics import seeded

CLEAR = OneBitEncoding(BinaryChannel(p10=0.0, p01=0.0), None)
NOISY = OneBitEncoding(randomised_response(1.0), 1.0)


def test_what_is_above_0_is_1() -> None:
    features = torch.tensor([[-1.0, -0.0, 0.0, 1e-45, 3.0, torch.inf, -torch.inf, torch.nan, 2.0]])
    for encoding in (CLEAR, NOISY):
        found = encoding.decode(encoding.encode(features, None), (9,))
        assert found.tolist() == [[0, 0, 0, 1, 1, 1, 0, 0, 1]]


def test_noise_is_the_channels() -> None:
    features = torch.randn(50, 9, generator=torch.Generator().manual_seed(1))
    sent = NOISY.channel.send(features > 0, seeded())
    assert torch.equal(NOISY.decode(NOISY.encode(features, seeded()), (9,)), sent.to(torch.float32))
    assert not torch.equal(sent, features > 0)


def test_the_estimate_is_the_channels() -> None:
    packed = NOISY.encode(torch.randn(50, 3, 3, generator=torch.Generator().manual_seed(1)), seeded())
    arrived = NOISY.decode(packed, (3, 3)).to(torch.bool)
    assert torch.equal(NOISY.estimate(packed, (3, 3)), NOISY.channel.estimate(arrived))


def test_the_likelihood_takes_a_zero_for_a_zero() -> None:
    """Where a step is meant to be, or ReLU's zeros would be told from ones by nothing."""
    for value, bit in ((0.0, 0), (1.0, 1), (-1.0, 0)):
        features = torch.tensor([[value]])
        nll = [
            float(CLEAR.negative_log_likelihood(features, torch.tensor([[byte]], dtype=torch.uint8)))
            for byte in (0, 128)
        ]
        assert nll[bit] < 0.2 < 2 < nll[1 - bit]


def test_the_step_has_a_width() -> None:
    wide, packed = dataclasses.replace(CLEAR, step_width=1.0), torch.tensor([[128]], dtype=torch.uint8)
    assert float(wide.negative_log_likelihood(torch.tensor([[20.0]]), packed)) == float(
        CLEAR.negative_log_likelihood(torch.tensor([[2.0]]), packed)
    )
