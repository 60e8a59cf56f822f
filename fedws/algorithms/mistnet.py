"""MistNet, split learning on features with local differential privacy.

Source: Wang et al., "MistNet: Towards Private Neural Network Training with Local Differential Privacy" (Plato's
docs/papers). Workers run the first layers of a pretrained model on their samples once, send noisy bits, and never
train. The coordinator trains the other layers on these bits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from fedws.core import registry
from fedws.core.errors import TaskError, UsageError
from fedws.core.registry import register
from fedws.core.spec import Spec
from fedws.core.task_settings import UNLIMITED_BATCHES, EvalSettings, TrainSettings
from fedws.core.tensors import Tensors, hash_tensors
from fedws.core.validation import Count, Positive
from fedws.privacy.feature_release import FeatureRelease
from fedws.protocol.messages import Json, TaskRequest, TaskResult
from fedws.scheduling.base import TaskSpec
from fedws.split_learning import pretrained_file, pretraining
from fedws.split_learning.base import InitialState
from fedws.split_learning.extraction import ExtractSettings, build_release, extract_features
from fedws.split_learning.extractor_pool import MAX_EXTRACTORS, pack_state_dicts, unpack_state_dicts
from fedws.split_learning.feature_shift import find_shift_problem
from fedws.split_learning.feature_store import FEATURES_KEY, LABELS_KEY
from fedws.split_learning.fine_tuning import FineTuneSettings
from fedws.split_learning.head_training import LIKELIHOOD_LOSSES, HeadTrainSettings
from fedws.split_learning.model_split import find_split_points, split_model
from fedws.split_learning.pretraining import CLEAR_LABELS_HINT, PretrainSettings
from fedws.split_learning.release_format import ReleaseFormat
from fedws.split_learning.server_tasks import pretrain, train
from fedws.split_learning.upload_cache import open_uploads
from fedws.split_learning.upload_progress import CachedFeatureSettings, UploadSettings, records_per_chunk
from fedws.training import model_building
from fedws.training.base import Task
from fedws.training.task_context import TaskContext

# ------------------------------------------------------------------ on the worker


@register("task", "mistnet.extract", releases="features")
def extract(request: TaskRequest, context: TaskContext) -> TaskResult:
    """Encode and store the features of every sample, once a run; the result describes what ``upload`` sends."""
    settings = context.parse_settings(request, ExtractSettings)
    return extract_features(request, context, settings, lambda pieces: pieces[0])


@register("task", "mistnet.fine_tune", releases="features", explicit=True)
def fine_tune(request: TaskRequest, context: TaskContext) -> TaskResult:
    """Train the extractor on the samples, where it stays, then encode and store features like ``extract``."""
    settings = context.parse_settings(request, FineTuneSettings)

    def prepare_extractor(pieces: list[Tensors]) -> Tensors:
        return settings.fine_tune(pieces[0], pieces[1], context, request.seed)

    return extract_features(request, context, settings, prepare_extractor)


@register("task", "mistnet.upload", releases="features")
def upload(request: TaskRequest, context: TaskContext) -> TaskResult:
    """Send a chunk of the stored records, with the same bits for every request of the chunk. Raises TaskError."""
    settings = context.parse_settings(request, UploadSettings)
    cached = open_uploads(context).find_completed()
    if cached is None or cached.acknowledged:
        raise TaskError(f"{context.node} has {'no' if cached is None else 'deleted the'} features of this run")
    if (dataset := cached.manifest["settings"]["dataset"]) != context.dataset:
        raise TaskError(f"the features of this run are from {dataset!r}, but {context.node} has {context.dataset!r}")
    first, count, records = settings.first, settings.count, cached.manifest["num_records"]
    if settings.model != cached.manifest["settings"]["model"]:
        raise TaskError(
            f"the features of this run are from model {cached.manifest['settings']['model']!r}, not {settings.model!r}"
        )
    if first + count > records or count > records_per_chunk(cached.manifest):
        raise TaskError(f"invalid chunk: {count} records from number {first} on, of {records}")
    context.declare_release(
        request, build_release(cached, resent=cached.was_sent(first, count)), lambda: cached.mark_sent(first, count)
    )
    features, targets = cached.read_records(first, count)
    return context.build_result(request, {"first": settings.first}, {FEATURES_KEY: features, LABELS_KEY: targets})


@register("task", "mistnet.acknowledge", releases="features")
def acknowledge(request: TaskRequest, context: TaskContext) -> TaskResult:
    """Delete the stored records, since the coordinator has received all of them."""
    context.parse_settings(request, CachedFeatureSettings)
    cached = open_uploads(context).find_completed()
    if cached is not None:
        cached.acknowledge()
    return context.build_result(request, {})


# ------------------------------------------------------------------ on the coordinator


@register("algorithm", "mistnet")
@dataclass(frozen=True)
class MistNet:
    """MistNet: pretraining, one collection of noisy features, and training of the rest of the model on them."""

    training: TrainSettings
    _: KW_ONLY
    split_at: str = ""
    """Last layer of the extractor, such as ``pool1`` or ``features.2``; empty for the model's default split point."""
    encoding: str = "bits"
    epsilon: Positive | None = None
    """Epsilon for each feature value, which is one bit; None for 2 with a noisy encoding."""
    label_epsilon: Positive = 4.0
    labels: Literal["randomised", "clear"] = "randomised"
    public_dataset: str = "digits"
    """Spec of the data set for pretraining."""
    pretrain_epochs: Count = 20
    pretrained_path: str = ""
    """Path of a file with a pretrained model; empty to pretrain in the run."""
    extractor: Literal["one", "random"] = "one"
    """Use of extractors: ``one`` for all workers, or ``random``, where each worker draws one and keeps it secret."""
    num_extractors: Annotated[int, Field(ge=2, le=MAX_EXTRACTORS)] = 3
    """Number of extractors that are pretrained for ``random``; a pretrained file has its own number."""
    extractor_epochs: Annotated[int, Field(ge=0)] = 0
    """Number of epochs for which a worker first trains its extractor on its own samples."""
    feature_shift: Annotated[int, Field(ge=0)] = 0
    """Maximum random shift of feature maps, in positions, when the head trains on them."""
    server_tasks: ClassVar[Mapping[str, Task]] = MappingProxyType(
        {"mistnet.pretrain": pretrain, "mistnet.train": train}
    )

    def __post_init__(self) -> None:
        assert self.release_format  # raises UsageError for an invalid encoding
        registry.find_piece("dataset", Spec.parse(self.public_dataset).name)
        if self.training.loss not in LIKELIHOOD_LOSSES and self.labels != "clear":
            needed = f"randomised labels require {' or '.join(LIKELIHOOD_LOSSES)}"
            raise UsageError(f"--loss {self.training.loss}: {needed}; {CLEAR_LABELS_HINT}")
        module = model_building.build_model(self.training.model, seed=0)
        if not self.split_point:
            name, split_points = self.training.model, ", ".join(find_split_points(module)) or "none"
            raise UsageError(
                f"--split-at is required: model {name!r} has no default split point; available: {split_points}"
            )
        split_model(module, self.split_point)

    @property
    def split_point(self) -> str:
        """Split point: ``split_at``, or the model's default; empty without either."""
        model = registry.find_piece("model", Spec.parse(self.training.model).name)
        return self.split_at or getattr(model, "split_at", "")

    @property
    def release_format(self) -> ReleaseFormat:
        """Format in which records leave the workers."""
        return ReleaseFormat.create(
            self.encoding, self.epsilon, self.label_epsilon if self.labels == "randomised" else None
        )

    def build_release(self, feature_shape: Sequence[int]) -> FeatureRelease:
        """Return the privacy cost of a record with features of ``feature_shape``."""
        return self.release_format.build_release(feature_shape, fine_tuned=self.extractor_epochs > 0)

    def configure_evaluation(self, settings: EvalSettings) -> EvalSettings:
        """Return ``settings`` for an evaluation through both halves of the model.

        Features are encoded without noise, and decoded as in training.
        """
        options = {"split_at": self.split_point, "encoding": self.release_format.encoding}
        return settings.model_copy(update={"wrapper": "encoded_split", "wrapper_options": options})

    def startup_notices(self) -> Sequence[str]:
        """Return log lines about the consequences of the settings, for the start of a run."""
        notices, public = [], self.public_dataset
        if not self.pretrained_path:
            notices.append(f"Pretraining {self.training.model} on {public} for {self.pretrain_epochs} epochs")
        if Spec.parse(self.training.dataset).name == Spec.parse(public).name:
            notices.append(f"{public} is also the data set of pretraining, so no metric will show what the workers add")
        if self.extractor == "random":
            notices.append(
                "Each worker draws one of several extractors; this adds no privacy: features may reveal the choice"
            )
        if self.extractor_epochs:
            notices.append(
                f"Workers train first (epochs: {self.extractor_epochs}), which takes time and memory on them"
            )
        return notices

    def init(self, model: Tensors) -> InitialState:
        """Return the pretrained model from its file, or ``model``, with extra extractors if they are drawn at random.

        Raises UsageError if the file has no pretrained model, or another one.
        """
        if self.pretrained_path:
            pretrained = pretrained_file.load_pretrained_for(Path(self.pretrained_path), self.training.model, model)
            origin, file = pretrained.info, f"--pretrained {self.pretrained_path}"
            extra_extractors: Tensors = {}
            if not origin.num_classes and self.labels != "clear":
                raise UsageError(f"{file}: the pretraining data has no classes; {CLEAR_LABELS_HINT}")
            if self.extractor == "random":
                extractor = self._select_half(0, pretrained.model)
                extra_extractors = pretrained_file.require_extra_extractors(pretrained, extractor, file)
            return InitialState(
                pretrained.model, extra_extractors, origin.num_classes, origin.label_format, origin.input_shape
            )
        if self.extractor == "random":
            return InitialState(
                model, pretraining.build_extractors(self.training.model, self.split_point, self.num_extractors - 1)
            )
        return InitialState(model)

    def feature_shape(self, input_shape: Sequence[int]) -> Sequence[int]:
        """Return the shape of features for ``input_shape``. Raises UsageError if the shift is too large."""
        extractor, _ = split_model(model_building.build_model(self.training.model, seed=0), self.split_point)
        with torch.inference_mode():
            found = tuple(extractor.eval()(torch.zeros(1, *input_shape)).shape[1:])
        if why := find_shift_problem(found, self.feature_shift):
            raise UsageError(why)
        return found

    def configure_pretraining(self, model: Tensors, extra_extractors: Tensors, epoch: int) -> TaskSpec | None:
        """Return the task of pretraining epoch ``epoch``, counted from 1; None after the last."""
        if self.pretrained_path or epoch > self.pretrain_epochs:
            return None
        changes = {"dataset": self.public_dataset, "max_local_batches": UNLIMITED_BATCHES, "epochs": 1}
        settings = PretrainSettings(
            **{**self.training.model_dump(), **changes}, split_at=self.split_point, clear_labels=self.labels == "clear"
        )
        return TaskSpec("mistnet.pretrain", settings.model_dump(), {**model, **extra_extractors})

    def configure_extraction(
        self, model: Tensors, extra_extractors: Tensors, num_classes: int, *, send: bool
    ) -> TaskSpec:
        """Return the first task of a worker, which extracts features.

        With ``send`` it contains the extractors, and the head if workers train; without, only their digests.
        """
        pieces, training = [self._select_half(0, model), *unpack_state_dicts(extra_extractors)], self.training
        fields = {
            **self._split_settings(num_classes),
            "dataset": training.dataset,
            "extractors": [hash_tensors(piece) for piece in pieces],
            "cuda": training.cuda,
        }
        if self.extractor_epochs:
            head = self._select_half(1, model)
            pieces.append(head)
            fields |= {"head": hash_tensors(head), "epochs": self.extractor_epochs}
            fields |= {"train_batch_size": training.batch_size, "drop_last": training.drop_last}
            fields |= {"loss": training.loss, "optimizer": training.optimizer, "lr": training.lr}
        task, settings = (
            ("mistnet.fine_tune", FineTuneSettings) if self.extractor_epochs else ("mistnet.extract", ExtractSettings)
        )
        return TaskSpec(task, settings(**fields).model_dump(), pack_state_dicts(pieces) if send else {})

    def configure_training(
        self, model: Tensors, optimizer_tensors: Tensors, num_classes: int, feature_shape: Sequence[int], epoch: int
    ) -> TaskSpec:
        """Return the task of training epoch ``epoch``, counted from 1."""
        training = self.training.for_round(epoch)
        loss_settings = training.model_dump(include={"loss", "optimizer", "lr", "batch_size", "drop_last", "cuda"})
        settings = HeadTrainSettings(
            **self._split_settings(num_classes),
            **loss_settings,
            feature_shape=list(feature_shape),
            feature_shift=self.feature_shift,
        )
        return TaskSpec("mistnet.train", settings.model_dump(), {**model, **optimizer_tensors})

    def configure_upload(self, first: int, count: int) -> TaskSpec:
        """Return the task that sends ``count`` records, beginning with number ``first``."""
        return TaskSpec(
            "mistnet.upload", UploadSettings(model=self.training.model, first=first, count=count).model_dump(), {}
        )

    def configure_acknowledgement(self) -> TaskSpec:
        """Return the task that confirms the receipt of all records of a worker."""
        return TaskSpec("mistnet.acknowledge", CachedFeatureSettings(model=self.training.model).model_dump(), {})

    def _split_settings(self, num_classes: int) -> Json:
        return {
            **self.release_format.model_dump(),
            "model": self.training.model,
            "split_at": self.split_point,
            "num_classes": num_classes,
        }

    def _select_half(self, index: int, model: Tensors) -> Tensors:
        """Return the tensors of ``model`` that belong to the extractor (``index`` 0) or to the head (1)."""
        return {name: model[name] for name in self._half_names[index]}

    @cached_property
    def _half_names(self) -> tuple[list[str], list[str]]:
        """Names of the tensors of the extractor and of the head."""
        module = model_building.build_model(self.training.model, seed=0)
        extractor, head = split_model(module, self.split_point)
        return list(extractor.state_dict()), list(head.state_dict())
