"""The protocol of algorithms that gather once, as MistNet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fedws.core.plan import Scoring
from fedws.core.tensors import Tensors
from fedws.privacy.spending import Features
from fedws.scheduling.base import Ask
from fedws.split_learning.release_format import Coded
from fedws.training.base import Task


@dataclass(frozen=True)
class Basis:
    """What such a run begins with."""

    model: Tensors
    others: Tensors = field(default_factory=dict)
    """Extractors beyond the model's own, joined."""
    classes: int = 0
    label: str = ""
    """What a label is, as :func:`fedws.data.labels.told` tells it."""
    sample: Sequence[int] = ()
    """The shape of one; empty where the first epoch of pretraining will tell shape, classes and label."""


class GatheringAlgorithm(Protocol):
    """An algorithm that trains on the coordinator: :class:`fedws.split_learning.scheduler.Gathering` makes a Strategy
    of it.

    Factory: ``(training: fedws.core.plan.Training, *, options)``, registered as ``strategy``.
    """

    @property
    def own(self) -> Mapping[str, Task]:
        """The tasks of the coordinator's own node, by name."""

    @property
    def coded(self) -> Coded:
        """How records leave the workers."""

    def spent(self, shape: Sequence[int]) -> Features:
        """What a record with features of that shape spends."""

    def scoring(self, plain: Scoring) -> Scoring:
        """How the evaluator is to score the model."""

    def remarks(self) -> Sequence[str]:
        """What a person should read before it begins."""

    def begin(self, model: Tensors) -> Basis:
        """What to begin with, from the initial model. Raises UsageError where that cannot be."""

    def shape(self, sample: Sequence[int]) -> Sequence[int]:
        """Of the features of a sample of that shape. Raises RejectedUpdate when there are none."""

    def pretraining(self, model: Tensors, others: Tensors, epoch: int) -> Ask | None:
        """What the own node does in that epoch of pretraining, from 1; None after the last."""

    def extraction(self, model: Tensors, others: Tensors, classes: int, *, send: bool) -> Ask:
        """What to ask of a worker first; with what it needs for that, if ``send``."""

    def upload(self, first: int, count: int) -> Ask:
        """Ask for records."""

    def acknowledgement(self) -> Ask:
        """Tell a worker that all of its records are here."""

    def epoch(self, model: Tensors, memory: Tensors, classes: int, shape: Sequence[int], epoch: int) -> Ask:
        """What the own node does in that epoch of training, from 1, on features of that shape."""


def gathers(algorithm: object) -> bool:
    """Whether an algorithm, or its factory, is of this kind."""
    return hasattr(algorithm, "extraction")
