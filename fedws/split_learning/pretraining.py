"""Training of a whole model on public data before it is split, also with several extractors of different seeds."""

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

CLEAR_LABELS_HINT = "to send clear labels, if the policies allow it, use --algorithm mistnet:labels=clear"


class PretrainSettings(TrainSettings):
    """The settings of a request for an epoch of pretraining."""

    split_at: str = ""
    """Split point at which the extractors end; required if there are several."""
    clear_labels: bool = False
    """True if labels will be sent in clear, and therefore need not be classes."""


def build_extractors(model: str, split_at: str, count: int) -> dict[str, torch.Tensor]:
    """Return ``count`` extractors of a model with different fresh weights, packed into one dict."""
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
    """Train ``module`` on the node's data with the given settings, and return its new tensors.

    ``extra_extractors`` are further extractors, packed into one dict. They are trained, too, and returned with the
    tensors of the module. Raises the same errors as ``fedws.training.local_training.train``.
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
    """Return the number of classes of a model for the node's data, and the format of a label.

    The number is 0 if the model is not a classifier of the data. Raises TaskError if the samples do not fit, or if the
    labels can neither be randomised nor be sent in clear.
    """
    inputs, targets = first_sample(context)
    try:
        with torch.inference_mode():
            found = batch_labels.count_output_classes(select_outputs(module.eval()(inputs)), targets)
    except RuntimeError as error:
        what = f"samples of {context.dataset} do not fit {settings.model}"
        raise TaskError(
            f"{what}; pretrain the model on other samples with 'fedws pretrain', and pass the file with --pretrained"
        ) from error
    if not found and not settings.clear_labels:
        raise TaskError(f"{settings.model} is not a classifier of {context.dataset}; {CLEAR_LABELS_HINT}")
    try:
        return found, batch_labels.describe_labels(batch_labels.to_sendable_labels(targets))
    except ValueError as error:
        raise TaskError(f"{context.dataset}: {error}") from None


def first_sample(context: task_context.TaskContext) -> tuple[torch.Tensor, Any]:
    """Return the first sample of the node's data as a batch of one.

    Raises TaskError if its input is not a tensor. A model is split along a forward pass with one tensor, and the
    features of several tensors would not fit into one record.
    """
    inputs, targets = load_batch(context.data, torch.tensor([0]))
    if not isinstance(inputs, torch.Tensor):
        raise TaskError(
            f"an input of {context.dataset} is {describe_type(inputs)}; pretraining and MistNet require one tensor"
        )
    return inputs, targets


def input_shape(context: task_context.TaskContext) -> list[int]:
    """Return the shape of one input.

    Raises the same errors as ``first_sample``.
    """
    return list(first_sample(context)[0].shape[1:])
