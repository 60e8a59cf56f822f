"""White-box feature inversion, which reconstructs images from the encoded features that left a worker.

Source: Mahendran and Vedaldi, "Understanding deep image representations by inverting them" (CVPR 2015). Gradient
descent changes an image until its features match the observed ones, with a penalty on its total variation. The attacker
has the extractor, the split point, the encoding and its epsilon, and the shape, mean and standard deviation of the
images. The attacker does not have the labels.
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
"""Differentiable loss [n] of features, float [n, *shape]: the smaller, the better they match the observed bytes."""
_TV_SMOOTHING = 1e-6
"""Constant under the root of total variation, which otherwise has no gradient where an image is flat."""
_NEGATIVE_SLOPE = 0.3
"""Gradient of a ReLU for negative inputs."""


@dataclass(frozen=True)
class AttackBudget:
    """The computing effort of an attack."""

    steps: int = 300
    """Number of gradient steps for each objective."""
    starts: int = 2
    """Number of random initial images for each original; the result with the smallest loss counts."""
    tv_weights: tuple[float, ...] = (1.0, 4.0, 16.0)
    """Weights of total variation, in nats for a full step from black to white between two pixels."""
    learning_rate: float = 0.05
    """Initial learning rate of Adam, which falls to 0 along half a cosine."""
    seed: int = 1
    """Random seed of the initial images."""

    @property
    def total_steps(self) -> int:
        """Number of steps of ``invert_features`` for both objectives together."""
        return 2 * self.steps


@dataclass(frozen=True)
class InversionResult:
    """The result of an attack, for the objective and the weight with the greatest median SSIM.

    A real attacker would select them on public images. A selection by the true SSIM overestimates the attack, which is
    the safe direction.
    """

    images: torch.Tensor
    """Reconstructed images, float32 [n, channels, height, width], 0 to 1."""
    ssim: torch.Tensor
    """Structural similarity [n] to the originals, 1 at most."""
    psnr: torch.Tensor
    """Peak signal-to-noise ratio [n] in dB."""
    num_features: int
    """Number of features of an image."""
    objective: str
    """Name of the objective in ``build_objectives``."""
    tv_weight: float
    """Weight of total variation, from ``AttackBudget.tv_weights``."""


def invert_features(
    extractor: torch.nn.Module,
    encoding: FeatureEncoding,
    dataset: ImageDataset,
    budget: AttackBudget,
    rng: SecureRandom,
    on_step: Callable[[], object] = lambda: None,
) -> InversionResult:
    """Encode the features of ``dataset`` as a worker does, and try to reconstruct the images.

    ``on_step`` is called after each step. Raises ValueError for images that are too small for SSIM.
    """
    extractor = _with_leaky_gradients(extractor)
    originals = dataset.pixels / 255

    def compute_features(images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = extractor((images - dataset.mean) / dataset.std)
        return features

    with torch.inference_mode():
        true_features = compute_features(originals)
        packed, shape = encoding.encode(true_features, rng), true_features.shape[1:]
    trial_weights = [weight for weight in budget.tv_weights for _ in range(budget.starts)]
    generator = torch.Generator().manual_seed(budget.seed)
    initial_images = torch.rand((len(trial_weights), *originals.shape), generator=generator).flatten(0, 1)
    weights = torch.tensor(trial_weights).repeat_interleave(len(originals))
    results = []
    for name, objective in build_objectives(encoding, packed.repeat(len(trial_weights), 1), shape).items():
        ends, losses = optimize_images(compute_features, objective, initial_images, weights, budget, on_step)
        best = losses.reshape(len(budget.tv_weights), budget.starts, -1).argmin(1)
        ends = ends.reshape(len(budget.tv_weights), budget.starts, *originals.shape)
        for weight, images_by_start, best_start in zip(budget.tv_weights, ends, best, strict=True):
            images = images_by_start[best_start, torch.arange(len(originals))]
            similarity = ssim(images, originals), psnr(images, originals)
            results.append(InversionResult(images, *similarity, shape.numel(), name, weight))
    return max(results, key=lambda result: float(result.ssim.quantile(0.5)))


def build_objectives(encoding: FeatureEncoding, packed: torch.Tensor, shape: Sequence[int]) -> dict[str, Objective]:
    """Return the two objectives of the attack, which both account for the noise of the encoding.

    ``mse`` is half the squared distance from the debiased features. ``nll`` is the negative log likelihood of the
    observed bytes.
    """
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
    """Minimize the loss of images [n, channels, height, width], 0 to 1, and return them with their losses [n].

    The loss is ``objective(compute_features(images))`` plus ``tv_weights`` [n] times the total variation.
    """
    images = initial_images.clone().requires_grad_()
    optimizer = torch.optim.Adam([images], lr=budget.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, budget.steps)

    def losses() -> torch.Tensor:
        return objective(compute_features(images)) + tv_weights * total_variation(images)

    for _ in range(budget.steps):
        optimizer.zero_grad()
        losses().sum().backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            images.clamp_(0, 1)
        on_step()
    with torch.no_grad():
        return images.detach(), losses()


def total_variation(images: torch.Tensor) -> torch.Tensor:
    """Return the total variation [n] of images [n, channels, height, width].

    It is the sum over pixels of the root of the squared differences from the neighbours below and to the right. This is
    section 3 of the paper, with beta = 1.
    """
    below = images[:, :, 1:, :-1] - images[:, :, :-1, :-1]
    right = images[:, :, :-1, 1:] - images[:, :, :-1, :-1]
    return flatten_features((below**2 + right**2 + _TV_SMOOTHING).sqrt()).sum(1)


def _with_leaky_gradients(extractor: torch.nn.Module) -> torch.nn.Module:
    """Return a copy of the extractor whose ReLUs have a gradient for negative inputs too.

    Without it, the gradient of an inactive ReLU is 0, so the attack could not correct a wrong bit of it.
    """
    extractor = copy.deepcopy(extractor).eval().requires_grad_(False)
    for module in list(extractor.modules()):
        for name, child in module.named_children():
            if isinstance(child, torch.nn.ReLU):
                setattr(module, name, _LeakyGradientReLU())
    return extractor


class _LeakyGradientReLU(torch.nn.Module):
    """A ReLU whose gradient for negative inputs is 0.3 instead of 0."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        leaky = torch.nn.functional.leaky_relu(inputs, _NEGATIVE_SLOPE)
        return leaky + (inputs.relu() - leaky).detach()
