"""Training on the data of one node."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from fedws.core.errors import Stopped, TaskError
from fedws.core.seeds import seeded
from fedws.core.task_settings import Training
from fedws.data.samples import Batch, batches
from fedws.training.batching import count, groups, normalises
from fedws.training.objective import Objective
from fedws.training.task_context import Workspace, piece


@dataclass(frozen=True)
class Trained:
    """What a local training did."""

    loss: float
    """Mean training loss over the samples used."""
    samples: int
    device: str


def train(
    module: torch.nn.Module,
    work: Workspace,
    settings: Training,
    seed: int,
    penalty: Callable[[torch.nn.Module], torch.Tensor] | None = None,
) -> Trained:
    """Train ``module`` in place on the node's data: ``epochs`` shuffled epochs, at most ``batches`` batches in all.

    ``penalty(module)``, a scalar, is added to each batch's loss. The order of samples is ``torch.randperm`` of a
    generator seeded with ``seed``, one draw an epoch. :class:`fedws.training.objective.Objective` describes the loss. A
    last batch of one sample is joined to the batch before if a batch norm trains. Raises TaskError for an unknown loss
    or optimizer, Stopped when told to stop.
    """
    objective = Objective(module.train(), work, settings)
    optimizer: torch.optim.Optimizer = piece("optimizer", settings.optimizer, module.parameters(), settings.lr)
    total, samples = torch.zeros((), dtype=torch.float64), 0
    with seeded(seed) as generator:
        for batch in _shuffled(work, settings, generator, join=normalises(module)):
            optimizer.zero_grad()
            loss = objective(batch).loss
            if penalty is not None:
                loss = loss + penalty(module)
            loss.backward()
            optimizer.step()
            total += loss.detach().cpu().double() * batch.samples
            samples += batch.samples
    module.to("cpu")
    return Trained(float(total) / samples, samples, objective.device.type)


def gradient(module: torch.nn.Module, work: Workspace, settings: Training, seed: int) -> Trained:
    """Leave in ``module`` the gradient of the mean loss over the samples that :func:`train` would have used.

    Raises as :func:`train`.
    """
    objective = Objective(module.train(), work, settings)
    total, samples = torch.zeros((), dtype=torch.float64), 0
    with seeded(seed) as generator:
        for batch in _shuffled(work, settings, generator, join=normalises(module)):
            loss = objective(batch).loss * batch.samples
            loss.backward()
            total += loss.detach().cpu().double()
            samples += batch.samples
    module.to("cpu")
    for parameter in module.parameters():
        if parameter.grad is not None:
            parameter.grad.div_(samples)
    return Trained(float(total) / samples, samples, objective.device.type)


def _shuffled(work: Workspace, settings: Training, generator: torch.Generator, *, join: bool) -> Iterator[Batch]:
    """Yield the batches of a training, in the order that ``generator`` draws.

    A sample that is joined to a batch counts as a batch of its own, so that joining does not change which samples are
    used.
    """
    held, size, left = work.held, settings.batch_size, settings.batches
    if not held:
        raise TaskError(f"{work.node} holds no samples")
    if settings.drop_last and held < size:
        raise TaskError(
            f"{work.node} holds {held} samples, less than one batch of {size}, and --drop-last leaves them out; "
            "use a smaller --batch-size, or train without --drop-last"
        )
    for _ in range(settings.epochs):
        if not left:
            return
        order = torch.randperm(held, generator=generator)[: left * size]
        left -= count(len(order), size, drop_last=settings.drop_last)
        for batch in batches(work.data, groups(order, size, join=join, drop_last=settings.drop_last)):
            if work.stop.is_set():
                raise Stopped("told to stop")
            yield batch
