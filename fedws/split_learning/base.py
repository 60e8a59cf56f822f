"""The protocol of algorithms that gather once, as MistNet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fedws.core.task_settings import EvalSettings
from fedws.core.tensors import Tensors
from fedws.privacy.feature_release import FeatureRelease
from fedws.scheduling.base import TaskSpec
from fedws.split_learning.release_format import ReleaseFormat
from fedws.training.base import Task


@dataclass(frozen=True)
class InitialState:
    """What such a run begins with."""

    model: Tensors
    extra_extractors: Tensors = field(default_factory=dict)
    """Extractors beyond the model's own, joined."""
    num_classes: int = 0
    label_format: str = ""
    """What a label is, as :func:`fedws.data.batch_labels.describe_labels` tells it."""
    input_shape: Sequence[int] = ()
    """The shape of one; empty where the first epoch of pretraining will tell shape, classes and label."""


class CollectThenTrainAlgorithm(Protocol):
    """An algorithm that trains on the coordinator: :class:`fedws.split_learning.scheduler.CollectThenTrainScheduler`
    makes a Scheduler of it.

    Factory: ``(training: fedws.core.task_settings.TrainSettings, *, options)``, registered as ``algorithm``.
    """

    @property
    def server_tasks(self) -> Mapping[str, Task]:
        """The tasks of the server trainer, by name."""

    @property
    def release_format(self) -> ReleaseFormat:
        """How records leave the workers."""

    def build_release(self, feature_shape: Sequence[int]) -> FeatureRelease:
        """What a record with features of that shape spends."""

    def configure_evaluation(self, settings: EvalSettings) -> EvalSettings:
        """How the evaluator is to score the model."""

    def startup_notices(self) -> Sequence[str]:
        """What a person should read before it begins."""

    def init(self, model: Tensors) -> InitialState:
        """What to begin with, from the initial model. Raises UsageError where that cannot be."""

    def feature_shape(self, input_shape: Sequence[int]) -> Sequence[int]:
        """Of the features of a sample of that shape. Raises RejectedUpdate when there are none."""

    def configure_pretraining(self, model: Tensors, extra_extractors: Tensors, epoch: int) -> TaskSpec | None:
        """What the server trainer does in that epoch of pretraining, from 1; None after the last."""

    def configure_extraction(
        self, model: Tensors, extra_extractors: Tensors, num_classes: int, *, send: bool
    ) -> TaskSpec:
        """What to ask of a worker first; with what it needs for that, if ``send``."""

    def configure_upload(self, first: int, count: int) -> TaskSpec:
        """Ask for records."""

    def configure_acknowledgement(self) -> TaskSpec:
        """Tell a worker that all of its records are here."""

    def configure_training(
        self, model: Tensors, optimizer_tensors: Tensors, num_classes: int, feature_shape: Sequence[int], epoch: int
    ) -> TaskSpec:
        """What the server trainer does in that epoch of training, from 1, on features of that shape."""


def is_collect_then_train(algorithm: object) -> bool:
    """Whether an algorithm, or its factory, is of this kind."""
    return hasattr(algorithm, "configure_extraction")
