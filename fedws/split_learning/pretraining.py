"""Trains a whole model on public data, before it is cut; also with several extractors, from different beginnings."""

from typing import Any

import torch

from fedws.core import seeds
from fedws.core.errors import TaskError
from fedws.core.task_settings import TrainSettings
from fedws.core.tensors import Tensors, copy_to_cpu
from fedws.data import batch_labels
from fedws.data.nested_tensors import describe_type
from fedws.data.samples import load_batch
from fedws.split_learning import extractor_pool
from fedws.split_learning.model_split import split_model
from fedws.training import local_training, model_building, task_context
from fedws.training.objective import select_outputs

CLEAR_LABELS_HINT = "labels can be sent as they are, where the policies allow it: --algorithm mistnet:labels=clear"


class PretrainSettings(TrainSettings):
    """What a request for an epoch of it says."""

    split_at: str = ""
    """Where extractors end; needed where there are several."""
    clear_labels: bool = False
    """Whether labels will leave as they are, and so need not be classes."""


def build_extractors(model: str, split_at: str, count: int) -> dict[str, torch.Tensor]:
    """``count`` extractors of a model with fresh weights, all different, joined."""
    extractor_seeds = [seeds.request_seed(0, "extractor", number) for number in range(count)]
    return extractor_pool.pack_state_dicts(
        [split_model(model_building.build_model(model, seed), split_at)[0].state_dict() for seed in extractor_seeds]
    )


def pretrain_epoch(
    module: torch.nn.Module,
    extra_extractors: Tensors,
    context: task_context.TaskContext,
    settings: PretrainSettings,
    seed: int,
) -> tuple[local_training.TrainResult, Tensors]:
    """Train ``module`` on the node's data as the settings say; gives its tensors after it, and those of
    ``extra_extractors``.

    ``extra_extractors`` are further extractors, joined. Raises as :func:`fedws.training.local_training.train`.
    """
    if not extra_extractors:
        trained = local_training.train(module, context, settings, seed)
        return trained, copy_to_cpu(module.state_dict())
    shared = extractor_pool.MultiExtractorModel(
        module, settings.split_at, extractor_pool.unpack_state_dicts(extra_extractors), first_extractor=seed
    )
    trained = local_training.train(shared, context, settings, seed)
    return trained, copy_to_cpu({**shared.model_state(), **shared.pack_extra_extractors()})


def inspect_labels(
    module: torch.nn.Module, context: task_context.TaskContext, settings: PretrainSettings
) -> tuple[int, str]:
    """How many classes a model tells apart on the node's data, 0 where it does not; and what a label is.

    Raises TaskError when the samples do not fit, or the labels can neither be randomised nor be sent as they are.
    """
    inputs, targets = first_sample(context)
    try:
        with torch.inference_mode():
            found = batch_labels.count_output_classes(select_outputs(module.eval()(inputs)), targets)
    except RuntimeError as error:
        what = f"samples of {context.dataset} do not fit {settings.model}"
        raise TaskError(
            f"{what}: pretrain it on others with 'fedws pretrain', and name the file with --pretrained"
        ) from error
    if not found and not settings.clear_labels:
        raise TaskError(f"{settings.model} tells no classes of {context.dataset} apart; {CLEAR_LABELS_HINT}")
    try:
        return found, batch_labels.describe_labels(batch_labels.to_sendable_labels(targets))
    except ValueError as error:
        raise TaskError(f"{context.dataset}: {error}") from None


def first_sample(context: task_context.TaskContext) -> tuple[torch.Tensor, Any]:
    """Return the first sample of the node's data as a batch of one. Raises TaskError where its input is not a tensor.

    A model is cut along its forward pass with one tensor; what several make would not fit one record.
    """
    inputs, targets = load_batch(context.data, torch.tensor([0]))
    if not isinstance(inputs, torch.Tensor):
        raise TaskError(
            f"an input of {context.dataset} is {describe_type(inputs)}; pretraining and MistNet need one tensor"
        )
    return inputs, targets


def input_shape(context: task_context.TaskContext) -> list[int]:
    """Return the shape of one input. Raises as :func:`first_sample`."""
    return list(first_sample(context)[0].shape[1:])
