"""Trains the second half of a model on features that are stored."""

from typing import Annotated

import torch
from pydantic import Field

from fedws.core import registry, seeds
from fedws.core.errors import Stopped, TaskError
from fedws.core.task_settings import Count
from fedws.core.tensors import Tensors, detached
from fedws.core.validation import Positive
from fedws.data.nested_tensors import described
from fedws.privacy import randomized_labels
from fedws.split_learning.extraction import Cut
from fedws.split_learning.feature_crops import cropped, problem
from fedws.split_learning.feature_store import Records
from fedws.split_learning.model_split import split
from fedws.training import objective, optimizer_state, task_context
from fedws.training.batching import enough, groups, normalises
from fedws.training.objective import outputs as computed
from fedws.training.objective import suit

LIKELIHOODS = ("nll", "cross_entropy")
"""Losses that are a likelihood of classes, and so know what to do with labels that may be untrue."""


class Epoch(Cut):
    """What an order to train the head says."""

    shape: list[int]
    """Of a record's features."""
    loss: str
    """Reckons with randomised labels if it is one of :data:`LIKELIHOODS`; any other is for clear ones."""
    optimizer: str
    lr: Positive
    batch_size: Count
    cuda: bool
    drop_last: bool = False
    crop: Annotated[int, Field(ge=0)] = 0
    """By how many places feature maps are shifted at most; 0: not at all."""


def trained(
    module: torch.nn.Module, memory: Tensors, records: Records, settings: Epoch, work: task_context.Workspace, seed: int
) -> tuple[float, Tensors]:
    """Train the head of ``module`` for an epoch on ``records``; gives the mean loss, and model and memory after it.

    ``memory`` is the optimizer's, from the epoch before. Raises Stopped when told to stop.
    """
    place, encoding = objective.device(settings.cuda), settings.encoder()
    _, head = split(module.to(place), settings.cut)
    head.train()
    optimizer = registry.build("optimizer", settings.optimizer, head.parameters(), settings.lr)
    optimizer_state.remember(optimizer, memory)
    plain = registry.build("loss", settings.loss)
    corrected = settings.classes > 0 and settings.loss in LIKELIHOODS
    if why := problem(settings.shape, settings.crop):
        raise TaskError(why)
    if settings.crop and not settings.classes:
        raise TaskError(f"crop={settings.crop}: labels that are no classes may be places, which would have to move")
    total, used, usual = 0.0, 0, min(settings.batch_size, len(records))
    drop, join = settings.drop_last and len(records) >= settings.batch_size, normalises(head)
    with seeds.seeded(seed) as generator:
        order = torch.randperm(len(records), generator=generator)
        for indices in groups(order, settings.batch_size, join=join, drop_last=drop):
            if work.stop.is_set():
                raise Stopped("told to stop")
            packed, targets = records.batch(indices)
            features, targets = encoding.decode(packed, settings.shape).to(place), targets.to(place)
            if settings.crop:
                features = cropped(features, settings.crop, generator)
            if features.dim() == 4:
                features = features.to(memory_format=torch.channels_last)  # a third faster on CPUs
            with enough(len(targets), work.node, join=join):
                outputs = computed(head(features))
            if corrected and not isinstance(outputs, torch.Tensor):
                raise TaskError(f"the head of {settings.model} gives {described(outputs)}; it must give logits")
            if corrected:  # log_softmax leaves log-probabilities as they are
                loss = randomized_labels.loss(outputs.log_softmax(1), targets, settings.label_epsilon)
            else:
                suit(plain, settings.loss, outputs, targets)
                loss = plain(outputs, targets)
            optimizer.zero_grad()
            (loss * (len(targets) / usual)).backward()  # a record of a short last batch weighs no more than others
            optimizer.step()
            total += float(loss.detach()) * len(targets)
            used += len(targets)
    return total / used, detached({**module.state_dict(), **optimizer_state.memory(optimizer)})
