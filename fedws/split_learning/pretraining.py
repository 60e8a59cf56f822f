"""Trains a whole model on public data, before it is cut; also with several extractors, from different beginnings."""

from typing import Any

import torch

from fedws.core import seeds
from fedws.core.errors import TaskError
from fedws.core.task_settings import Training
from fedws.core.tensors import Tensors, detached
from fedws.data import labels
from fedws.data.nested_tensors import described
from fedws.data.samples import batch
from fedws.split_learning import extractor_pool
from fedws.split_learning.model_split import split
from fedws.training import building, local, task_context
from fedws.training.objective import outputs

CLEAR = "labels can be sent as they are, where the policies allow it: --strategy mistnet:labels=clear"


class Lesson(Training):
    """What an order for an epoch of it says."""

    cut: str = ""
    """Where extractors end; needed where there are several."""
    clear: bool = False
    """Whether labels will leave as they are, and so need not be classes."""


def beginnings(model: str, cut: str, count: int) -> dict[str, torch.Tensor]:
    """``count`` extractors of a model with fresh weights, all different, joined."""
    drawn = [seeds.order_seed(0, "extractor", number) for number in range(count)]
    return extractor_pool.join([split(building.initial(model, seed), cut)[0].state_dict() for seed in drawn])


def learn(
    module: torch.nn.Module, others: Tensors, work: task_context.Workspace, settings: Lesson, seed: int
) -> tuple[local.Trained, Tensors]:
    """Train ``module`` on the node's data as the settings say; gives its tensors after it, and those of ``others``.

    ``others`` are further extractors, joined. Raises as :func:`fedws.training.local.train`.
    """
    if not others:
        trained = local.train(module, work, settings, seed)
        return trained, detached(module.state_dict())
    shared = extractor_pool.Shared(module, settings.cut, extractor_pool.parts(others), turn=seed)
    trained = local.train(shared, work, settings, seed)
    return trained, detached({**shared.whole(), **shared.others()})


def examine(module: torch.nn.Module, work: task_context.Workspace, settings: Lesson) -> tuple[int, str]:
    """How many classes a model tells apart on the node's data, 0 where it does not; and what a label is.

    Raises TaskError when the samples do not fit, or the labels can neither be randomised nor be sent as they are.
    """
    inputs, targets = first(work)
    try:
        with torch.inference_mode():
            found = labels.classes(outputs(module.eval()(inputs)), targets)
    except RuntimeError as error:
        what = f"samples of {work.dataset} do not fit {settings.model}"
        raise TaskError(
            f"{what}: pretrain it on others with 'fedws pretrain', and name the file with --pretrained"
        ) from error
    if not found and not settings.clear:
        raise TaskError(f"{settings.model} tells no classes of {work.dataset} apart; {CLEAR}")
    try:
        return found, labels.told(labels.plain(targets))
    except ValueError as error:
        raise TaskError(f"{work.dataset}: {error}") from None


def first(work: task_context.Workspace) -> tuple[torch.Tensor, Any]:
    """Return the first sample of the node's data as a batch of one. Raises TaskError where its input is not a tensor.

    A model is cut along its forward pass with one tensor; what several make would not fit one record.
    """
    inputs, targets = batch(work.data, torch.tensor([0]))
    if not isinstance(inputs, torch.Tensor):
        raise TaskError(f"an input of {work.dataset} is {described(inputs)}; pretraining and MistNet need one tensor")
    return inputs, targets


def shape(work: task_context.Workspace) -> list[int]:
    """Return the shape of one input. Raises as :func:`first`."""
    return list(first(work)[0].shape[1:])
