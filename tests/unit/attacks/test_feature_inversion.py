"""The attack: that its losses are fair, and that it finds what there is to be found."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from fedws.attacks import feature_inversion
from fedws.attacks.feature_inversion import (
    AttackBudget,
    InversionResult,
    build_objectives,
    invert_features,
    optimize_images,
    total_variation,
)
from fedws.attacks.image_similarity import ssim
from fedws.core import registry
from fedws.data.samples import ImageDataset
from fedws.split_learning.feature_encoding import FeatureEncoding
from tests.helpers.statistics import seeded

EFFORT = AttackBudget(steps=120, starts=1)


def build(spec: str) -> FeatureEncoding:
    found: FeatureEncoding = registry.build_piece("encoding", spec)
    return found


def images(count: int = 4) -> ImageDataset:
    """Discs on a slope, 20 x 20, each of its own size and place."""
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(20.0), indexing="ij")
    pictures = []
    for number in range(count):
        disc = (x - 6 - 2 * number) ** 2 + (y - 12 + number) ** 2 < (4 + number) ** 2
        pictures.append((50 + 4 * x + 120 * disc).to(torch.uint8))
    return ImageDataset(
        torch.stack(pictures).unsqueeze(1), torch.zeros(count, dtype=torch.int64), mean=(0.4,), std=(0.3,)
    )


def extractor() -> nn.Module:
    """An early cut of a net that was never trained."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU())


def attacked(spec: str, effort: AttackBudget = EFFORT) -> InversionResult:
    return invert_features(extractor(), build(spec), images(), effort, seeded())


def shared(pictures: torch.Tensor) -> float:
    return float(pictures.quantile(0.5))


def test_floats_give_the_picture_away() -> None:
    originals = images().pixels / 255
    chance = max(
        float(ssim(originals.roll(1, 0), originals).max()), float(ssim(torch.rand_like(originals), originals).max())
    )
    found = attacked("floats")
    assert float(found.ssim.min()) > 0.9 > chance + 0.2
    assert found.num_features == 16 * 20 * 20
    assert torch.equal(found.ssim, ssim(found.images, originals)), "of these pictures, in their order"
    assert float(found.images.min()) >= 0 and float(found.images.max()) <= 1


def test_less_epsilon_gives_less_away() -> None:
    found = [shared(attacked(spec).ssim) for spec in ("bits:0.2", "bits:1", "bits_without_noise", "floats")]
    assert found == sorted(found) and found[0] < 0.5 < found[2]


def test_plain_squares_on_noisy_bits_would_flatter_the_defence() -> None:
    """They ask for features of 0 and 1 as they arrived, which lie around the middle whatever the picture is."""
    encoding, originals, net = build("bits:0.5"), images().pixels / 255, extractor().requires_grad_(False)

    def features(pictures: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = net((pictures - images().mean) / images().std)
        return found

    seen = features(originals)
    packed = encoding.encode(seen, seeded())
    arrived = encoding.decode(packed, seen.shape[1:])
    begin = torch.rand(originals.shape, generator=torch.Generator().manual_seed(1))

    def best(misfit: Callable[[torch.Tensor], torch.Tensor]) -> float:
        """The median SSIM with the weight that suits the loss the best."""
        ends = [
            optimize_images(features, misfit, begin, torch.full((4,), w), EFFORT)[0] for w in (0.25, 1.0, 4.0, 16.0)
        ]
        return max(shared(ssim(end, originals)) for end in ends)

    naive = best(lambda given: (given - arrived).square().flatten(1).sum(1) / 2)
    fair = best(build_objectives(encoding, packed, seen.shape[1:])["nll"])
    assert fair > naive + 0.05


def test_losses_are_the_debiased_squares_and_the_likelihood() -> None:
    encoding = build("bits:1")
    features = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(1))
    packed = encoding.encode(features, seeded())
    found = build_objectives(encoding, packed, (2, 5))
    assert list(found) == ["mse", "nll"]
    p = math.e / (1 + math.e)
    debiased = (encoding.decode(packed, (2, 5)) - (1 - p)) / (2 * p - 1)
    assert torch.allclose(found["mse"](features), (features - debiased).square().sum((1, 2)) / 2)
    assert torch.equal(found["nll"](features), encoding.negative_log_likelihood(features, packed))


def test_the_same_seed_gives_the_same_pictures() -> None:
    effort = AttackBudget(steps=3)
    first, again, other = (attacked("bits", e) for e in (effort, effort, AttackBudget(steps=3, seed=2)))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)


def test_the_start_counts_that_ends_with_the_least_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that whose end is the most alike: the attacker cannot know."""
    originals, effort = images().pixels / 255, AttackBudget(steps=1, starts=3, tv_weights=(1.0, 2.0))
    losses = torch.tensor([[5.0, 1.0, 9.0, 4.0], [2.0, 3.0, 1.0, 9.0], [7.0, 2.0, 3.0, 0.0]])
    ends = torch.stack([torch.full_like(originals, start / 4) for start in range(3)])

    def told(
        features: object, misfit: object, begin: torch.Tensor, weights: torch.Tensor, effort: AttackBudget, tick: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert weights.tolist() == [1.0] * 12 + [2.0] * 12
        assert begin.shape == (24, 1, 20, 20) and not torch.equal(begin[0], begin[4])
        return torch.cat([ends, ends]).flatten(0, 1), torch.cat([losses, losses]).flatten()

    monkeypatch.setattr(feature_inversion, "optimize_images", told)
    found = invert_features(extractor(), build("floats"), images(), effort, seeded())
    assert found.images.mean((1, 2, 3)).tolist() == [0.25, 0.0, 0.25, 0.5]


def test_descent_stays_among_pictures_and_settles() -> None:
    """Adam's steps are of one size, so the rate must fall for it to settle where a slope changes its sign."""
    wanted = torch.tensor([-3.0, 0.0, 0.3, 0.7, 1.0, 4.0]).reshape(6, 1, 1, 1).expand(6, 1, 4, 4)
    ends, losses = optimize_images(
        lambda pictures: pictures,
        lambda pictures: (pictures - wanted).abs().flatten(1).sum(1),
        torch.rand(wanted.shape, generator=torch.Generator().manual_seed(1)),
        torch.zeros(6),
        EFFORT,
    )
    assert torch.allclose(ends, wanted.clamp(0, 1), atol=1e-3)
    assert losses.tolist() == pytest.approx([48, 0, 0, 0, 0, 48], abs=0.02)


def test_steps_are_told() -> None:
    seen = itertools.count()
    effort = AttackBudget(steps=3)
    invert_features(extractor(), build("floats"), images(1), effort, seeded(), lambda: next(seen))
    assert next(seen) == effort.total_steps == 6


def test_total_variation_is_the_papers() -> None:
    pictures = torch.rand(2, 3, 6, 5, generator=torch.Generator().manual_seed(1))
    wanted = [
        sum(
            math.hypot(p[c, y + 1, x] - p[c, y, x], p[c, y, x + 1] - p[c, y, x])
            for c, y, x in itertools.product(range(3), range(5), range(4))
        )
        for p in pictures
    ]
    assert total_variation(pictures).tolist() == pytest.approx(wanted, rel=1e-4)


def test_the_attacked_extractor_is_left_as_it_was() -> None:
    net = extractor().train()
    invert_features(net, build("floats"), images(1), AttackBudget(steps=1), seeded())
    assert net.training and isinstance(net[1], nn.ReLU)  # type: ignore[index]
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_a_relu_that_is_off_still_has_a_gradient_and_gives_what_it_gave() -> None:
    inputs = torch.tensor([-2.0, 0.5], requires_grad=True)
    outputs = feature_inversion._with_leaky_gradients(nn.Sequential(nn.ReLU()))(inputs)
    outputs.sum().backward()
    assert outputs.tolist() == [0, 0.5]
    assert inputs.grad is not None and inputs.grad.tolist() == pytest.approx([0.3, 1])
