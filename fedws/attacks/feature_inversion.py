"""White-box feature inversion: pictures again, from what left a worker.

Mahendran and Vedaldi, "Understanding deep image representations by inverting them" (CVPR 2015): gradient descent on a
picture until its features are those that were seen, among pictures of little total variation. The attacker knows the
extractor, the cut, the encoding and its epsilon, the pictures' shape, mean and deviation; not the labels.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from fedws.attacks.image_similarity import psnr, ssim
from fedws.data.samples import ImageDataset
from fedws.privacy.secure_noise import SecureRandom
from fedws.split_learning.bit_packing import flatten_features
from fedws.split_learning.feature_encoding import FeatureEncoding

Objective = Callable[[torch.Tensor], torch.Tensor]
"""How badly features, float [n, *shape], explain the bytes that were seen: [n], with a gradient."""
_TV_SMOOTHING = 1e-6
"""Under the root of total variation, which else has no gradient where a picture is flat."""
_NEGATIVE_SLOPE = 0.3


@dataclass(frozen=True)
class AttackBudget:
    """How hard the attacker tries."""

    steps: int = 300
    starts: int = 2
    """Random pictures to begin with; of a picture's ends that with the least loss counts."""
    tv_weights: tuple[float, ...] = (1.0, 4.0, 16.0)
    """Of total variation, in nats for a full step from black to white between two pixels."""
    learning_rate: float = 0.05
    """Adam's learning rate at first; it falls to 0 in half a cosine."""
    seed: int = 1
    """Of the starts."""

    @property
    def total_steps(self) -> int:
        """How many steps :func:`invert_features` takes in all."""
        return 2 * self.steps


@dataclass(frozen=True)
class InversionResult:
    """What the attacker got: of all losses and weights, those with the greatest median SSIM.

    An attacker would have found out which on public pictures; to take the best here errs on the side of caution.
    """

    images: torch.Tensor
    """Float32 [n, channels, height, width], 0 to 1."""
    ssim: torch.Tensor
    psnr: torch.Tensor
    """In dB; both are [n]."""
    num_features: int
    """Features of a picture."""
    objective: str
    """Which of :func:`build_objectives`."""
    tv_weight: float


def invert_features(
    extractor: torch.nn.Module,
    encoding: FeatureEncoding,
    dataset: ImageDataset,
    budget: AttackBudget,
    rng: SecureRandom,
    on_step: Callable[[], object] = lambda: None,
) -> InversionResult:
    """Encode the features of ``dataset`` as a worker does, and try to have the pictures back. ``on_step`` is called in

    each step. Raises ValueError for pictures too small for SSIM.
    """
    extractor = _with_leaky_gradients(extractor)
    originals = dataset.pixels / 255

    def features(pictures: torch.Tensor) -> torch.Tensor:
        given: torch.Tensor = extractor((pictures - dataset.mean) / dataset.std)
        return given

    with torch.inference_mode():
        seen = features(originals)
        packed, shape = encoding.encode(seen, rng), seen.shape[1:]
    tries = [weight for weight in budget.tv_weights for _ in range(budget.starts)]
    generator = torch.Generator().manual_seed(budget.seed)
    begin = torch.rand((len(tries), *originals.shape), generator=generator)
    weights = torch.tensor(tries).repeat_interleave(len(originals))
    found = []
    for loss, misfit in build_objectives(encoding, packed.repeat(len(tries), 1), shape).items():
        ends, losses = optimize_images(features, misfit, begin.flatten(0, 1), weights, budget, on_step)
        best = losses.reshape(len(budget.tv_weights), budget.starts, -1).argmin(1)
        ends = ends.reshape(len(budget.tv_weights), budget.starts, *originals.shape)
        for weight, starts, chosen in zip(budget.tv_weights, ends, best, strict=True):
            pictures = starts[chosen, torch.arange(len(originals))]
            alike = ssim(pictures, originals), psnr(pictures, originals)
            found.append(InversionResult(pictures, *alike, shape.numel(), loss, weight))
    return max(found, key=lambda outcome: float(outcome.ssim.quantile(0.5)))


def build_objectives(encoding: FeatureEncoding, packed: torch.Tensor, shape: Sequence[int]) -> dict[str, Objective]:
    """Two that are fair to noise: half the squared distance from the debiased features, and the log likelihood."""
    estimate = encoding.estimate(packed, shape)
    return {
        "mse": lambda features: flatten_features(features - estimate).square().sum(1) / 2,
        "nll": lambda features: encoding.negative_log_likelihood(features, packed),
    }


def optimize_images(
    compute_features: Callable[[torch.Tensor], torch.Tensor],
    objective: Objective,
    initial_images: torch.Tensor,
    tv_weights: torch.Tensor,
    budget: AttackBudget,
    on_step: Callable[[], object] = lambda: None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """From pictures [n, channels, height, width], 0 to 1, to those of the least loss nearby, and their losses [n].

    The loss is ``misfit(features(pictures))`` and ``tv_weights`` [n] times the total variation.
    """
    pictures = initial_images.clone().requires_grad_()
    optimizer = torch.optim.Adam([pictures], lr=budget.learning_rate)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, budget.steps)

    def losses() -> torch.Tensor:
        return objective(compute_features(pictures)) + tv_weights * total_variation(pictures)

    for _ in range(budget.steps):
        optimizer.zero_grad()
        losses().sum().backward()
        optimizer.step()
        falling.step()
        with torch.no_grad():
            pictures.clamp_(0, 1)
        on_step()
    with torch.no_grad():
        return pictures.detach(), losses()


def total_variation(images: torch.Tensor) -> torch.Tensor:
    """[n] of pictures [n, channels, height, width]: the paper's section 3, with beta = 1.

    The sum over pixels of the root of the squared differences from the neighbours below and to the right.
    """
    below = images[:, :, 1:, :-1] - images[:, :, :-1, :-1]
    right = images[:, :, :-1, 1:] - images[:, :, :-1, :-1]
    return flatten_features((below**2 + right**2 + _TV_SMOOTHING).sqrt()).sum(1)


def _with_leaky_gradients(extractor: torch.nn.Module) -> torch.nn.Module:
    """A copy in which a gradient also passes ReLUs that are off: else a wrong bit of one would move nothing."""
    extractor = copy.deepcopy(extractor).eval().requires_grad_(False)
    for module in list(extractor.modules()):
        for name, child in module.named_children():
            if isinstance(child, torch.nn.ReLU):
                setattr(module, name, _LeakyGradientReLU())
    return extractor


class _LeakyGradientReLU(torch.nn.Module):
    """A ReLU whose gradient is 0.3, not 0, where it is off."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        leaky = torch.nn.functional.leaky_relu(inputs, _NEGATIVE_SLOPE)
        return leaky + (inputs.relu() - leaky).detach()
