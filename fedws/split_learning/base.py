"""Protocol of algorithms that collect features once and then train on the coordinator, such as MistNet."""

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
    """The initial state of a collect-then-train run."""

    model: Tensors
    extra_extractors: Tensors = field(default_factory=dict)
    """Extractors besides the model's own, packed into one dict."""
    num_classes: int = 0
    label_format: str = ""
    """Format of a label, as returned by ``fedws.data.batch_labels.describe_labels``."""
    input_shape: Sequence[int] = ()
    """Shape of one input; empty if the first pretraining epoch determines shape, classes and label format."""


class CollectThenTrainAlgorithm(Protocol):
    """An algorithm that collects features once and then trains on the coordinator.

    ``fedws.split_learning.scheduler.CollectThenTrainScheduler`` makes a scheduler of it. The factory
    ``(training: fedws.core.task_settings.TrainSettings, *, options)`` is registered as ``algorithm``.
    """

    @property
    def server_tasks(self) -> Mapping[str, Task]:
        """Return the tasks of the server trainer by name."""

    @property
    def release_format(self) -> ReleaseFormat:
        """Return the format in which records leave the workers."""

    def build_release(self, feature_shape: Sequence[int]) -> FeatureRelease:
        """Return the privacy cost of a record with features of ``feature_shape``."""

    def configure_evaluation(self, settings: EvalSettings) -> EvalSettings:
        """Return the settings with which the evaluator evaluates the model."""

    def startup_notices(self) -> Sequence[str]:
        """Return the notices to log before the run starts."""

    def init(self, model: Tensors) -> InitialState:
        """Return the initial state of a run from the initial model.

        Raises UsageError if the run cannot start from it.
        """

    def feature_shape(self, input_shape: Sequence[int]) -> Sequence[int]:
        """Return the shape of the features of a sample with ``input_shape``.

        Raises UsageError if the algorithm cannot use features of that shape.
        """

    def configure_pretraining(self, model: Tensors, extra_extractors: Tensors, epoch: int) -> TaskSpec | None:
        """Return the server trainer's task for pretraining epoch ``epoch``, from 1, or None after the last epoch."""

    def configure_extraction(
        self, model: Tensors, extra_extractors: Tensors, num_classes: int, *, send: bool
    ) -> TaskSpec:
        """Return the task that extracts features, with the tensors of the extractors if ``send`` is true."""

    def configure_upload(self, first: int, count: int) -> TaskSpec:
        """Return the task that uploads ``count`` records from number ``first`` on."""

    def configure_acknowledgement(self) -> TaskSpec:
        """Return the task that notifies a worker that the coordinator has stored all of its records."""

    def configure_training(
        self, model: Tensors, optimizer_tensors: Tensors, num_classes: int, feature_shape: Sequence[int], epoch: int
    ) -> TaskSpec:
        """Return the server trainer's task for training epoch ``epoch``, from 1, on features of ``feature_shape``."""


def is_collect_then_train(algorithm: object) -> bool:
    """Return True if an algorithm, or its factory, collects features once and then trains."""
    return hasattr(algorithm, "configure_extraction")
