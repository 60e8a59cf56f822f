"""The training of a model on the data of one node."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from fedws.core.seeds import seed_generators
from fedws.core.task_settings import TrainSettings
from fedws.training.batching import iter_shuffled_batches, trains_batch_norm
from fedws.training.objective import Objective
from fedws.training.task_context import TaskContext, build_task_piece


@dataclass(frozen=True)
class TrainResult:
    """The result of a local training."""

    loss: float
    """Mean training loss over the samples that were used."""
    num_examples: int
    """Number of samples that were used, over all epochs."""
    device: str
    """Type of the torch device, such as ``cpu``."""


def train(
    module: torch.nn.Module,
    context: TaskContext,
    settings: TrainSettings,
    seed: int,
    penalty: Callable[[torch.nn.Module], torch.Tensor] | None = None,
) -> TrainResult:
    """Train ``module`` in place on the node's data.

    The training lasts ``epochs`` shuffled epochs, but at most ``max_local_batches`` batches. The order of samples is
    ``torch.randperm`` of a generator seeded with ``seed``, with one draw an epoch. A last batch of one sample is joined
    to the batch before if a batch norm is in training mode.

    ``fedws.training.objective.Objective`` describes the loss. ``penalty(module)``, a scalar, is added to the loss
    of each batch. Raises TaskError for an unknown loss or optimizer, and TaskCancelled if the task is cancelled.
    """
    objective = Objective(module.train(), context, settings)
    optimizer: torch.optim.Optimizer = build_task_piece(
        "optimizer", settings.optimizer, module.parameters(), settings.lr
    )
    total, samples = torch.zeros((), dtype=torch.float64), 0
    with seed_generators(seed) as generator:
        for batch in iter_shuffled_batches(context, settings, generator, join_last=trains_batch_norm(module)):
            optimizer.zero_grad()
            loss = objective(batch).loss
            if penalty is not None:
                loss = loss + penalty(module)
            loss.backward()
            optimizer.step()
            total += loss.detach().cpu().double() * batch.num_examples
            samples += batch.num_examples
    module.to("cpu")
    return TrainResult(float(total) / samples, samples, objective.device.type)


def compute_gradient(module: torch.nn.Module, context: TaskContext, settings: TrainSettings, seed: int) -> TrainResult:
    """Compute the gradient of the mean loss over the samples that ``train`` would use.

    The gradient is stored in the parameters of ``module``. Raises TaskError for an unknown loss, and TaskCancelled if
    the task is cancelled.
    """
    objective = Objective(module.train(), context, settings)
    total, num_examples = torch.zeros((), dtype=torch.float64), 0
    with seed_generators(seed) as generator:
        for batch in iter_shuffled_batches(context, settings, generator, join_last=trains_batch_norm(module)):
            loss = objective(batch).loss * batch.num_examples
            loss.backward()
            total += loss.detach().cpu().double()
            num_examples += batch.num_examples
    module.to("cpu")
    for parameter in module.parameters():
        if parameter.grad is not None:
            parameter.grad.div_(num_examples)
    return TrainResult(float(total) / num_examples, num_examples, objective.device.type)
