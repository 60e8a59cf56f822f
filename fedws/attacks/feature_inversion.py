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
from fedws.data.samples import Images
from fedws.privacy.secure_noise import Noise
from fedws.split_learning.bit_packing import rows
from fedws.split_learning.encoding import Encoding

Misfit = Callable[[torch.Tensor], torch.Tensor]
"""How badly features, float [n, *shape], explain the bytes that were seen: [n], with a gradient."""
_LEAST = 1e-6
"""Under the root of total variation, which else has no gradient where a picture is flat."""
_SLOPE = 0.3


@dataclass(frozen=True)
class Effort:
    """How hard the attacker tries."""

    steps: int = 300
    starts: int = 2
    """Random pictures to begin with; of a picture's ends that with the least loss counts."""
    weights: tuple[float, ...] = (1.0, 4.0, 16.0)
    """Of total variation, in nats for a full step from black to white between two pixels."""
    rate: float = 0.05
    """Adam's learning rate at first; it falls to 0 in half a cosine."""
    seed: int = 1
    """Of the starts."""

    @property
    def ticks(self) -> int:
        """How many steps :func:`attack` takes in all."""
        return 2 * self.steps


@dataclass(frozen=True)
class Outcome:
    """What the attacker got: of all losses and weights, those with the greatest median SSIM.

    An attacker would have found out which on public pictures; to take the best here errs on the side of caution.
    """

    pictures: torch.Tensor
    """Float32 [n, channels, height, width], 0 to 1."""
    ssim: torch.Tensor
    psnr: torch.Tensor
    """In dB; both are [n]."""
    values: int
    """Features of a picture."""
    loss: str
    """Which of :func:`misfits`."""
    weight: float


def attack(
    extractor: torch.nn.Module,
    encoding: Encoding,
    images: Images,
    effort: Effort,
    noise: Noise,
    tick: Callable[[], object] = lambda: None,
) -> Outcome:
    """Encode the features of ``images`` as a worker does, and try to have the pictures back. ``tick`` is called in

    each step. Raises ValueError for pictures too small for SSIM.
    """
    extractor = _willing(extractor)
    originals = images.pixels / 255

    def features(pictures: torch.Tensor) -> torch.Tensor:
        given: torch.Tensor = extractor((pictures - images.mean) / images.std)
        return given

    with torch.inference_mode():
        seen = features(originals)
        packed, shape = encoding.encode(seen, noise), seen.shape[1:]
    tries = [weight for weight in effort.weights for _ in range(effort.starts)]
    generator = torch.Generator().manual_seed(effort.seed)
    begin = torch.rand((len(tries), *originals.shape), generator=generator)
    weights = torch.tensor(tries).repeat_interleave(len(originals))
    found = []
    for loss, misfit in misfits(encoding, packed.repeat(len(tries), 1), shape).items():
        ends, losses = invert(features, misfit, begin.flatten(0, 1), weights, effort, tick)
        best = losses.reshape(len(effort.weights), effort.starts, -1).argmin(1)
        ends = ends.reshape(len(effort.weights), effort.starts, *originals.shape)
        for weight, starts, chosen in zip(effort.weights, ends, best, strict=True):
            pictures = starts[chosen, torch.arange(len(originals))]
            alike = ssim(pictures, originals), psnr(pictures, originals)
            found.append(Outcome(pictures, *alike, shape.numel(), loss, weight))
    return max(found, key=lambda outcome: float(outcome.ssim.quantile(0.5)))


def misfits(encoding: Encoding, packed: torch.Tensor, shape: Sequence[int]) -> dict[str, Misfit]:
    """Two that are fair to noise: half the squared distance from the debiased features, and the log likelihood."""
    estimate = encoding.estimate(packed, shape)
    return {
        "mse": lambda features: rows(features - estimate).square().sum(1) / 2,
        "nll": lambda features: encoding.likelihood(features, packed),
    }


def invert(
    features: Callable[[torch.Tensor], torch.Tensor],
    misfit: Misfit,
    begin: torch.Tensor,
    weights: torch.Tensor,
    effort: Effort,
    tick: Callable[[], object] = lambda: None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """From pictures [n, channels, height, width], 0 to 1, to those of the least loss nearby, and their losses [n].

    The loss is ``misfit(features(pictures))`` and ``weights`` [n] times the total variation.
    """
    pictures = begin.clone().requires_grad_()
    optimizer = torch.optim.Adam([pictures], lr=effort.rate)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, effort.steps)

    def losses() -> torch.Tensor:
        return misfit(features(pictures)) + weights * total_variation(pictures)

    for _ in range(effort.steps):
        optimizer.zero_grad()
        losses().sum().backward()
        optimizer.step()
        falling.step()
        with torch.no_grad():
            pictures.clamp_(0, 1)
        tick()
    with torch.no_grad():
        return pictures.detach(), losses()


def total_variation(pictures: torch.Tensor) -> torch.Tensor:
    """[n] of pictures [n, channels, height, width]: the paper's section 3, with beta = 1.

    The sum over pixels of the root of the squared differences from the neighbours below and to the right.
    """
    below = pictures[:, :, 1:, :-1] - pictures[:, :, :-1, :-1]
    right = pictures[:, :, :-1, 1:] - pictures[:, :, :-1, :-1]
    return rows((below**2 + right**2 + _LEAST).sqrt()).sum(1)


def _willing(extractor: torch.nn.Module) -> torch.nn.Module:
    """A copy in which a gradient also passes ReLUs that are off: else a wrong bit of one would move nothing."""
    extractor = copy.deepcopy(extractor).eval().requires_grad_(False)
    for module in list(extractor.modules()):
        for name, child in module.named_children():
            if isinstance(child, torch.nn.ReLU):
                setattr(module, name, _Willing())
    return extractor


class _Willing(torch.nn.Module):
    """A ReLU whose gradient is 0.3, not 0, where it is off."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        leaky = torch.nn.functional.leaky_relu(inputs, _SLOPE)
        return leaky + (inputs.relu() - leaky).detach()
