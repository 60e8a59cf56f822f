"""Extraction of features: run the extractor over a node's samples, forward only, and encode its outputs."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Annotated, Any, Self

import torch
from pydantic import Field, model_validator

from fedws.core import registry, seeds
from fedws.core.errors import TaskError, TaskFailed, UsageError
from fedws.core.task_settings import MAX_FORWARD_BATCH_SIZE, ForwardBatchSize
from fedws.core.tensors import Tensors, find_mismatch, hash_tensors
from fedws.data import batch_labels
from fedws.data.nested_tensors import describe_type, move_tensors
from fedws.data.samples import compute_fingerprint, iter_batches, load_batch
from fedws.data.targets import MAX_LABEL_CLASSES
from fedws.privacy import randomised_labels
from fedws.privacy.feature_release import FeatureRelease
from fedws.privacy.secure_noise import SecureRandom
from fedws.protocol.messages import Digest, Json, TaskRequest, TaskResult
from fedws.split_learning import extractor_pool
from fedws.split_learning.model_split import split_model
from fedws.split_learning.release_format import ReleaseFormat
from fedws.split_learning.upload_cache import CachedUpload, EncodedBatch, check_settings_size, open_uploads
from fedws.training import objective, task_context
from fedws.training.batching import split_into_batches
from fedws.training.model_building import build_complete_model
from fedws.training.task_context import TaskContext


class SplitSettings(ReleaseFormat):
    """The split point of a model, and the format in which its features leave the node."""

    model: str
    split_at: str
    num_classes: Annotated[int, Field(ge=0, le=MAX_LABEL_CLASSES)]
    """Number of label classes, at least 2; or 0 for other labels, which are sent in clear."""

    @model_validator(mode="after")
    def _check_num_classes(self) -> Self:
        if self.num_classes == 1:
            raise ValueError("num_classes must be 0 or at least 2, not 1")
        if self.label_epsilon is not None and not self.num_classes:
            raise ValueError("labels that are not classes cannot be randomised; request clear labels")
        return self


class ExtractSettings(SplitSettings):
    """The settings of a request to extract features."""

    dataset: str
    extractors: Annotated[list[Digest], Field(min_length=1, max_length=extractor_pool.MAX_EXTRACTORS)]
    """Digests of the extractors, of which the node draws one at random.

    The request carries the tensors only after the node has requested them.
    """
    batch_size: ForwardBatchSize = MAX_FORWARD_BATCH_SIZE
    cuda: bool = False

    @property
    def feature_settings(self) -> Json:
        """Return the settings on which the features depend."""
        return self.model_dump(exclude={"batch_size", "cuda"})

    @property
    def extra_digests(self) -> list[str]:
        """Return the digests of the tensors that the task requires besides an extractor."""
        return []

    def draw_extractor(self, tensors: Tensors, context: task_context.TaskContext) -> list[Tensors] | None:
        """Draw an extractor and return it with the other required tensors, or None if one of them is not cached.

        Only this node can find out which extractor was drawn. ``tensors`` holds all extractors and the other tensors,
        packed into one dict. If it is empty, they are loaded from the cache. Raises TaskError for tensors that do not
        match the requested digests or the model, and OSError if the tensors cannot be cached.
        """
        pieces = extractor_pool.unpack_state_dicts(tensors)
        if tensors and [hash_tensors(piece) for piece in pieces] != [*self.extractors, *self.extra_digests]:
            raise TaskError("the received tensors do not match the requested digests")
        halves, uploads = self._outline_halves(context) if pieces else (), open_uploads(context)
        for number, piece in enumerate(pieces):
            self._check_tensors(piece, halves, head=number >= len(self.extractors))
        for piece in pieces:
            uploads.save_cached(piece)
        drawn = self.extractors[int(SecureRandom().integers(len(self.extractors), (1,)))]
        extractors = [uploads.load_cached(digest) for digest in (drawn, *self.extra_digests)]
        return None if None in extractors else [tensors for tensors in extractors if tensors is not None]

    def build_half(self, tensors: Tensors, context: task_context.TaskContext, *, head: bool = False) -> torch.nn.Module:
        """Return the extractor, or the head, with the weights ``tensors``.

        Raises TaskError if they do not match the model and the split point.
        """
        self._check_tensors(tensors, self._outline_halves(context), head=head)
        with registry.raise_as_task_error():
            half = split_model(build_complete_model(self.model), self.split_at)[head]
        half.load_state_dict(dict(tensors))
        return half

    def check_samples(self, extractor: torch.nn.Module, context: task_context.TaskContext) -> None:
        """Raise TaskError unless the extractor accepts the node's samples."""
        inputs, _ = load_batch(context.data, torch.tensor([0]))
        with torch.inference_mode():
            self.compute_features(extractor.eval(), inputs, context.node)

    def compute_features(self, extractor: torch.nn.Module, inputs: Any, node: str) -> torch.Tensor:
        """Return the features of samples.

        Raises TaskError if the samples do not fit, or if inputs or features are not a single tensor.
        """
        if not isinstance(inputs, torch.Tensor):
            raise TaskError(f"inputs on {node} are {describe_type(inputs)}; an extractor requires one tensor")
        try:
            features = extractor(inputs)
        except RuntimeError as error:  # its text may reveal data
            sizes = f"{list(inputs.shape[1:])} on {node}"
            raise TaskError(f"samples of shape {sizes} do not fit the extractor of {self.model}") from error
        if not isinstance(features, torch.Tensor):
            raise TaskError(
                f"the extractor of {self.model} returns {describe_type(features)}; features must be one tensor"
            )
        return features

    def _outline_halves(self, context: task_context.TaskContext) -> tuple[torch.nn.Module, torch.nn.Module]:
        """Return the extractor and the head without values.

        Raises TaskError if the model cannot be built or split.
        """
        model = context.build_outline(self.model)
        with registry.raise_as_task_error():
            return split_model(model, self.split_at)

    def _check_tensors(self, tensors: Tensors, halves: Sequence[torch.nn.Module], *, head: bool) -> None:
        problem = find_mismatch(tensors, halves[head].state_dict())
        if problem:
            what = f"the {'head' if head else 'extractor'} of {self.model}, split at {self.split_at}"
            raise TaskError(f"{what}, differs on this node: {problem}")


def fingerprint_samples(context: task_context.TaskContext) -> str:
    """Return a fingerprint that identifies the node's samples."""
    with seeds.seed_generators(0):  # a data set that draws at random returns the same sample each time
        return compute_fingerprint(context.data)


@torch.inference_mode()
def encode_batches(
    extractor: torch.nn.Module, settings: ExtractSettings, context: task_context.TaskContext, start: int = 0
) -> Iterator[EncodedBatch]:
    """Yield the encoded records of the node's samples in batches, from number ``start`` on.

    Raises TaskError if samples do not fit, and TaskCancelled if the task is cancelled.
    """
    device, encoding, rng = objective.select_device(settings.cuda), settings.build_encoding(), SecureRandom()
    extractor.to(device).eval()
    indices = torch.arange(start, len(context.data))
    for inputs, targets, _ in iter_batches(context.data, split_into_batches(indices, settings.batch_size)):
        context.raise_if_cancelled()
        features = settings.compute_features(extractor, move_tensors(inputs, device), context.node).cpu()
        shape, sendable_labels = features.shape[1:], _encode_labels(targets, settings, context.node, rng)
        features = features.nan_to_num()  # so that the result does not reveal the overflow of a sample
        yield EncodedBatch(encoding.encode(features, rng), sendable_labels, shape)


def _encode_labels(targets: object, settings: ExtractSettings, node: str, rng: SecureRandom) -> torch.Tensor:
    """Return the labels of a batch as they leave the node.

    Raises TaskError if the labels do not fit the settings.
    """
    try:
        plain = batch_labels.to_sendable_labels(targets)
    except ValueError as error:
        raise TaskError(f"{node}: {error}") from None
    if not settings.num_classes:
        return plain
    if plain.dim() != 1 or plain.is_floating_point():
        raise TaskError(f"the labels on {node} are not classes, which {settings.model} requires")
    if int(plain.min()) < 0 or int(plain.max()) >= settings.num_classes:
        raise TaskError(f"{node} has labels outside the {settings.num_classes} classes of {settings.model}")
    return randomised_labels.randomise_labels(plain, settings.num_classes, settings.label_epsilon, rng)


def build_release(upload: CachedUpload, *, resent: bool = False) -> FeatureRelease:
    """Return the privacy cost of a record of an upload; a ``resent`` record costs nothing more."""
    settings = upload.manifest["settings"]
    release_format = ReleaseFormat(encoding=settings["encoding"], label_epsilon=settings["label_epsilon"])
    return release_format.build_release(upload.manifest["feature_shape"], resent=resent, fine_tuned="head" in settings)


def build_manifest(upload: CachedUpload) -> Json:
    """Return the fields of the upload's ``fedws.split_learning.upload_progress.UploadManifest``."""
    manifest = {
        key: upload.manifest[key]
        for key in ("num_records", "feature_bytes", "feature_shape", "label_shape", "label_dtype")
    }
    release = build_release(upload)
    manifest |= {"encoding": release.encoding, "epsilon": release.epsilon, "label_epsilon": release.label_epsilon}
    return manifest


def extract_features(
    request: TaskRequest,
    context: TaskContext,
    settings: ExtractSettings,
    prepare_extractor: Callable[[list[Tensors]], Tensors],
) -> TaskResult:
    """Encode the features of all samples once per run, and return their manifest without tensors.

    ``prepare_extractor`` returns the extractor to use, given the drawn extractor and the other required tensors.
    Raises TaskError for settings that differ from those of the run's features, or that the policy forbids. Raises
    TaskFailed if the features cannot be stored.
    """
    uploads, feature_settings = open_uploads(context), check_settings_size(settings.feature_settings)
    cached = uploads.find_completed()
    if cached is not None:
        if cached.manifest["settings"] != feature_settings:
            raise TaskError(
                "the features of this run were extracted with other settings; new noise would spend privacy twice"
            )
        return context.build_result(request, build_manifest(cached))
    try:
        context.policy.check_features(settings.build_release(()))
    except UsageError as error:
        raise TaskError(str(error)) from None
    try:
        extractor_tensors = uploads.load_resumable(feature_settings, partial(fingerprint_samples, context))
        if extractor_tensors is None:
            state_dicts = settings.draw_extractor(request.tensors, context)
            if state_dicts is None:
                return context.build_result(request, {"needs_tensors": "extractor"})
            extractor_tensors = prepare_extractor(state_dicts)
            uploads.create_upload(feature_settings, extractor_tensors, fingerprint_samples(context))
        extractor = settings.build_half(extractor_tensors, context)
        with seeds.seed_generators(request.seed):  # a data set may draw at random; noise never comes from a seed
            cached = uploads.write_upload(lambda first: encode_batches(extractor, settings, context, first))
    except OSError as error:
        raise TaskFailed(f"{context.node} cannot store its features: {error.strerror or error}") from None
    return context.build_result(request, build_manifest(cached))
