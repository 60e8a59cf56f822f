"""Every registered encoding: bytes of a known size, one way to read them, and noise that nobody can take away."""

import math
import subprocess
import sys
from collections.abc import Sequence

import pytest
import torch

from fedws.core import registry
from fedws.privacy.secure_noise import SecureRandom
from fedws.split_learning.feature_encoding import FeatureEncoding
from tests.helpers.statistics import assert_mean, seeded
from tests.helpers.support import REPOSITORY

NAMES = registry.list_pieces("encoding")
SHAPES = [(), (1,), (7,), (8,), (9,), (2, 0, 3), (3, 5), (3, 5, 7), (1, 2, 1, 3, 11)]
every = pytest.mark.parametrize("name", NAMES)
any_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def build(name: str) -> FeatureEncoding:
    found: FeatureEncoding = registry.build_piece("encoding", name)
    return found


def features(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


NOISY = [name for name in NAMES if build(name).epsilon is not None]
noisy = pytest.mark.parametrize("name", NOISY)


@every
@any_shape
@pytest.mark.parametrize("n", [0, 1, 5])
@pytest.mark.parametrize("noise", [None, SecureRandom()], ids=["clear", "noise"])
def test_records_have_their_size_and_their_shape_again(
    name: str, shape: Sequence[int], n: int, noise: SecureRandom | None
) -> None:
    encoding, given = build(name), features(n, *shape)
    before = given.clone()
    packed = encoding.encode(given, noise)
    assert packed.dtype == torch.uint8 and packed.shape == (n, encoding.encoded_bytes(math.prod(shape)))
    for read in (encoding.decode(packed, shape), encoding.estimate(packed, shape)):
        assert read.dtype == torch.float32 and read.shape == (n, *shape) and bool(torch.isfinite(read).all())
    nll = encoding.negative_log_likelihood(given, packed)
    assert nll.shape == (n,) and bool(torch.isfinite(nll).all())
    assert torch.equal(given, before), "it is not changed in place"


@every
@any_shape
def test_without_noise_it_is_the_same_in_every_batch(name: str, shape: Sequence[int]) -> None:
    """What is scored is encoded as what is trained on: each record alone, and read by the same decode."""
    encoding, given = build(name), features(4, *shape)
    packed = encoding.encode(given, None)
    assert torch.equal(packed, encoding.encode(given.to(torch.float64), None))
    assert torch.equal(packed, torch.cat([encoding.encode(record[None], None) for record in given]))
    read = encoding.decode(packed, shape)
    assert torch.equal(read, encoding.decode(packed.t().contiguous().t(), shape)), "however it lies in memory"
    assert torch.equal(read, torch.cat([encoding.decode(record[None], shape) for record in packed]))


@noisy
def test_noise_is_new_in_every_call(name: str) -> None:
    encoding, given = build(name), features(8, 40)
    torch.manual_seed(1)
    one = encoding.encode(given, SecureRandom())
    torch.manual_seed(1)
    assert not torch.equal(one, encoding.encode(given, SecureRandom()))
    assert not torch.equal(one, encoding.encode(given, None))
    assert torch.equal(encoding.encode(given, seeded()), encoding.encode(given, seeded()))


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(NOISY)))
def test_who_states_no_epsilon_has_no_noise(name: str) -> None:
    encoding, given = build(name), features(8, 40)
    assert torch.equal(encoding.encode(given, SecureRandom()), encoding.encode(given, None))
    assert encoding.delta == 0


@every
def test_what_is_spent_is_stated(name: str) -> None:
    encoding = build(name)
    assert encoding.epsilon is None or 0 < encoding.epsilon < math.inf
    assert 0 <= encoding.delta < 1


@every
def test_the_estimate_is_unbiased(name: str) -> None:
    encoding, given, many = build(name), features(1, 12), 40_000
    wanted = encoding.decode(encoding.encode(given, None), (12,))
    packed = encoding.encode(given.expand(many, 12), seeded())
    found = encoding.estimate(packed, (12,)).to(torch.float64)
    assert_mean(found, wanted[0], found.std(0))


@every
def test_true_features_are_the_likelier(name: str) -> None:
    encoding, given = build(name), features(20, 500)
    packed = encoding.encode(given, seeded())
    true = encoding.negative_log_likelihood(given, packed)
    for other in (given.roll(1, 0), -given, torch.zeros_like(given)):
        assert bool((true < encoding.negative_log_likelihood(other, packed)).all())


@every
def test_the_likelihood_leads_to_the_features(name: str) -> None:
    encoding, given = build(name), features(1, 20_000)
    packed = encoding.encode(given, seeded())
    guess = torch.full_like(given, 0.2).requires_grad_()
    encoding.negative_log_likelihood(guess, packed).sum().backward()
    assert guess.grad is not None
    assert float(torch.corrcoef(torch.stack([-guess.grad[0], given[0]]))[0, 1]) > 0.05


@every
@pytest.mark.parametrize("off", [-1, 1, 8])
def test_another_number_of_bytes_is_refused(name: str, off: int) -> None:
    encoding = build(name)
    size = encoding.encoded_bytes(35) + off
    for packed in (torch.zeros(3, size, dtype=torch.uint8), torch.zeros(3, encoding.encoded_bytes(35))):
        with pytest.raises(ValueError, match=r"^wrong (size|bit count)") as caught:
            encoding.decode(packed, (5, 7))
        with pytest.raises(ValueError, match=r"^wrong (size|bit count)"):
            encoding.estimate(packed, (5, 7))
        with pytest.raises(ValueError, match=r"^wrong (size|bit count)"):
            encoding.negative_log_likelihood(torch.zeros(3, 5, 7), packed)
        assert "\n" not in str(caught.value)


@every
def test_any_bytes_are_finite_features_or_refused(name: str) -> None:
    encoding = build(name)
    random = torch.Generator().manual_seed(1)
    taken = 0
    for _ in range(300):
        packed = torch.randint(256, (1, encoding.encoded_bytes(9)), generator=random).to(torch.uint8)
        try:
            found = encoding.decode(packed, (9,))
        except ValueError:
            continue
        taken += 1
        assert bool(torch.isfinite(found).all())
    assert taken


MEMORY = """
import resource, sys, torch
from fedws.core import registry
from fedws.privacy.secure_noise import SecureRandom

def peak():
    return (1 if sys.platform == "darwin" else 1024) * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

torch.set_num_threads(1)
encodings = [registry.build_piece("encoding", name) for name in registry.list_pieces("encoding")]
for encoding in encodings:
    encoding.decode(encoding.encode(torch.randn(2, 1000), SecureRandom()), (1000,))
features = torch.randn(32, 2**16)
before = peak()
for encoding in encodings:
    encoding.decode(encoding.encode(features, SecureRandom()), (2**16,))
print((peak() - before) / features.numel())
"""


def test_memory_is_a_few_times_the_batch() -> None:
    """At the peak at most 50 bytes for each value of 4, with any encoding: what does not grow with the data."""
    done = subprocess.run([sys.executable, "-c", MEMORY], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 50
