"""Training of a model's head on stored features."""

from typing import Annotated

import torch
from pydantic import Field

from fedws.core import registry, seeds
from fedws.core.errors import TaskError
from fedws.core.tensors import Tensors, copy_to_cpu
from fedws.core.validation import Count, Positive
from fedws.data.nested_tensors import describe_type
from fedws.privacy import randomised_labels
from fedws.split_learning.extraction import SplitSettings
from fedws.split_learning.feature_shift import find_shift_problem, shift_features
from fedws.split_learning.feature_store import StoredFeatures
from fedws.split_learning.model_split import split_model
from fedws.training import objective, optimizer_state, task_context
from fedws.training.batching import explain_batch_norm_error, split_into_batches, trains_batch_norm
from fedws.training.objective import check_loss_inputs
from fedws.training.objective import select_outputs as computed

LIKELIHOOD_LOSSES = ("nll", "cross_entropy")
"""Losses that are a likelihood of classes, and can therefore be corrected for randomised labels."""


class HeadTrainSettings(SplitSettings):
    """The settings of a request to train the head."""

    feature_shape: list[int]
    """Shape of a record's features."""
    loss: str
    """Name of the loss; ``LIKELIHOOD_LOSSES`` are corrected for randomised labels, others require clear labels."""
    optimizer: str
    lr: Positive
    batch_size: Count
    cuda: bool
    drop_last: bool = False
    feature_shift: Annotated[int, Field(ge=0)] = 0
    """Maximum shift of feature maps in positions; 0 for no shift."""


def train_head(
    module: torch.nn.Module,
    optimizer_tensors: Tensors,
    records: StoredFeatures,
    settings: HeadTrainSettings,
    context: task_context.TaskContext,
    seed: int,
) -> tuple[float, Tensors]:
    """Train the head of ``module`` for an epoch on ``records``, and return the mean loss and the new tensors.

    The tensors are those of the model and of the optimizer. ``optimizer_tensors`` is the state of the optimizer after
    the epoch before. Raises TaskError for settings that do not fit the features or the labels, and TaskCancelled if
    the task is cancelled.
    """
    place, encoding = objective.select_device(settings.cuda), settings.build_encoding()
    _, head = split_model(module.to(place), settings.split_at)
    head.train()
    optimizer = registry.build_piece("optimizer", settings.optimizer, head.parameters(), settings.lr)
    optimizer_state.load_state_tensors(optimizer, optimizer_tensors)
    plain = registry.build_piece("loss", settings.loss)
    corrected = settings.num_classes > 0 and settings.loss in LIKELIHOOD_LOSSES
    if problem := find_shift_problem(settings.feature_shape, settings.feature_shift):
        raise TaskError(problem)
    if settings.feature_shift and not settings.num_classes:
        raise TaskError(
            f"feature_shift={settings.feature_shift}: labels that are not classes may be positions, "
            "which would have to be shifted, too"
        )
    total, used, usual = 0.0, 0, min(settings.batch_size, len(records))
    drop, join = settings.drop_last and len(records) >= settings.batch_size, trains_batch_norm(head)
    with seeds.seed_generators(seed) as generator:
        order = torch.randperm(len(records), generator=generator)
        for indices in split_into_batches(order, settings.batch_size, join_last=join, drop_last=drop):
            context.raise_if_cancelled()
            packed, targets = records.batch(indices)
            features, targets = encoding.decode(packed, settings.feature_shape).to(place), targets.to(place)
            if settings.feature_shift:
                features = shift_features(features, settings.feature_shift, generator)
            if features.dim() == 4:
                features = features.to(memory_format=torch.channels_last)  # a third faster on CPUs
            with explain_batch_norm_error(len(targets), context.node, has_batch_norm=join):
                outputs = computed(head(features))
            if corrected and not isinstance(outputs, torch.Tensor):
                raise TaskError(f"the head of {settings.model} returns {describe_type(outputs)}; it must return logits")
            if corrected:  # log_softmax does not change log-probabilities
                loss = randomised_labels.forward_corrected_loss(outputs.log_softmax(1), targets, settings.label_epsilon)
            else:
                check_loss_inputs(plain, settings.loss, outputs, targets)
                loss = plain(outputs, targets)
            optimizer.zero_grad()
            (loss * (len(targets) / usual)).backward()  # each record of a short last batch has the same weight
            optimizer.step()
            total += float(loss.detach()) * len(targets)
            used += len(targets)
    return total / used, copy_to_cpu({**module.state_dict(), **optimizer_state.get_state_tensors(optimizer)})
