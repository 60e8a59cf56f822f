"""Runs the first half of a model over a node's samples, forward only, and encodes what comes."""

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
    """Where a model is cut, and how what it gives there leaves."""

    model: str
    split_at: str
    num_classes: Annotated[int, Field(ge=0, le=MAX_LABEL_CLASSES)]
    """How many the labels tell apart, at least 2; or 0: they are other numbers, or several, and leave as they are."""

    @model_validator(mode="after")
    def _check_num_classes(self) -> Self:
        if self.num_classes == 1:
            raise ValueError("a single class is none")
        if self.label_epsilon is not None and not self.num_classes:
            raise ValueError("labels that are no classes cannot be randomised; only clear ones can be asked for")
        return self


class ExtractSettings(SplitSettings):
    """What a request to extract says."""

    dataset: str
    extractors: Annotated[list[Digest], Field(min_length=1, max_length=extractor_pool.MAX_EXTRACTORS)]
    """Their digests; the tensors come with the request only when the node has asked for them. It takes one by
    chance."""
    batch_size: ForwardBatchSize = MAX_FORWARD_BATCH_SIZE
    cuda: bool = False

    @property
    def feature_settings(self) -> Json:
        """What the features depend on."""
        return self.model_dump(exclude={"batch_size", "cuda"})

    @property
    def extra_digests(self) -> list[str]:
        """The digests of the tensors that it takes beside an extractor."""
        return []

    def draw_extractor(self, tensors: Tensors, context: task_context.TaskContext) -> list[Tensors] | None:
        """An extractor, drawn by chance that nobody else knows, and what else is wanted; None when it is not here.

        ``tensors`` are all extractors and the rest, joined, or nothing: then they are taken from the cache. Raises
        TaskError for others than those that are meant, and for what is not of this model; OSError when they cannot be
        cached.
        """
        pieces = extractor_pool.unpack_state_dicts(tensors)
        if tensors and [hash_tensors(piece) for piece in pieces] != [*self.extractors, *self.extra_digests]:
            raise TaskError("the extractor is not the one that was pretrained: its digest is another")
        halves, uploads = self._outline_halves(context) if pieces else (), open_uploads(context)
        for number, piece in enumerate(pieces):
            self._check_tensors(piece, halves, head=number >= len(self.extractors))
        for piece in pieces:
            uploads.save_cached(piece)
        drawn = self.extractors[int(SecureRandom().integers(len(self.extractors), (1,)))]
        extractors = [uploads.load_cached(digest) for digest in (drawn, *self.extra_digests)]
        return None if None in extractors else [tensors for tensors in extractors if tensors is not None]

    def build_half(self, tensors: Tensors, context: task_context.TaskContext, *, head: bool = False) -> torch.nn.Module:
        """The extractor with those weights, or the head. Raises TaskError when they are not of this model and cut."""
        self._check_tensors(tensors, self._outline_halves(context), head=head)
        with registry.raise_as_task_error():
            half = split_model(build_complete_model(self.model), self.split_at)[head]
        half.load_state_dict(dict(tensors))
        return half

    def check_samples(self, extractor: torch.nn.Module, context: task_context.TaskContext) -> None:
        """Raises TaskError when the node's samples do not go through it."""
        inputs, _ = load_batch(context.data, torch.tensor([0]))
        with torch.inference_mode():
            self.compute_features(extractor.eval(), inputs, context.node)

    def compute_features(self, extractor: torch.nn.Module, inputs: Any, node: str) -> torch.Tensor:
        """Of samples. Raises TaskError when they do not fit, and where inputs or features are not one tensor."""
        if not isinstance(inputs, torch.Tensor):
            raise TaskError(f"inputs on {node} are {describe_type(inputs)}; an extractor takes one tensor")
        try:
            features = extractor(inputs)
        except RuntimeError as error:  # whose text may tell of the data
            sizes = f"{list(inputs.shape[1:])} on {node}"
            raise TaskError(f"samples of {sizes} do not fit the extractor of {self.model}") from error
        if not isinstance(features, torch.Tensor):
            raise TaskError(
                f"the extractor of {self.model} gives {describe_type(features)}; features must be one tensor"
            )
        return features

    def _outline_halves(self, context: task_context.TaskContext) -> tuple[torch.nn.Module, torch.nn.Module]:
        """Return the extractor and the head without values. Raises TaskError."""
        model = context.build_outline(self.model)
        with registry.raise_as_task_error():
            return split_model(model, self.split_at)

    def _check_tensors(self, tensors: Tensors, halves: Sequence[torch.nn.Module], *, head: bool) -> None:
        problem = find_mismatch(tensors, halves[head].state_dict())
        if problem:
            what = f"the {'head' if head else 'extractor'} of {self.model}, cut at {self.split_at}"
            raise TaskError(f"{what}, is another one here: {problem}")


def fingerprint_samples(context: task_context.TaskContext) -> str:
    """Return what tells a node's samples from others."""
    with seeds.seed_generators(0):  # one that draws at random gives the same sample each time
        return compute_fingerprint(context.data)


@torch.inference_mode()
def encode_batches(
    extractor: torch.nn.Module, settings: ExtractSettings, context: task_context.TaskContext, start: int = 0
) -> Iterator[EncodedBatch]:
    """A batch of samples at a time as it may leave, from number ``start`` on.

    Raises TaskError when samples do not fit, TaskCancelled when it is cancelled.
    """
    device, encoding, rng = objective.select_device(settings.cuda), settings.build_encoding(), SecureRandom()
    extractor.to(device).eval()
    indices = torch.arange(start, len(context.data))
    for inputs, targets, _ in iter_batches(context.data, split_into_batches(indices, settings.batch_size)):
        context.raise_if_cancelled()
        features = settings.compute_features(extractor, move_tensors(inputs, device), context.node).cpu()
        shape, sendable_labels = features.shape[1:], _encode_labels(targets, settings, context.node, rng)
        features = features.nan_to_num()  # that a sample's overflow should not be told from the answer
        yield EncodedBatch(encoding.encode(features, rng), sendable_labels, shape)


def _encode_labels(targets: object, settings: ExtractSettings, node: str, rng: SecureRandom) -> torch.Tensor:
    """The labels of a batch as they may leave. Raises TaskError."""
    try:
        plain = batch_labels.to_sendable_labels(targets)
    except ValueError as error:
        raise TaskError(f"{node}: {error}") from None
    if not settings.num_classes:
        return plain
    if plain.dim() != 1 or plain.is_floating_point():
        raise TaskError(f"the labels on {node} are no classes, as {settings.model} tells them apart")
    if int(plain.min()) < 0 or int(plain.max()) >= settings.num_classes:
        raise TaskError(f"{node} holds labels beyond the {settings.num_classes} of {settings.model}")
    return randomised_labels.randomise_labels(plain, settings.num_classes, settings.label_epsilon, rng)


def build_release(upload: CachedUpload, *, resent: bool = False) -> FeatureRelease:
    """What a record of an upload spends, nothing if it is sent ``resent``."""
    settings = upload.manifest["settings"]
    release_format = ReleaseFormat(encoding=settings["encoding"], label_epsilon=settings["label_epsilon"])
    return release_format.build_release(upload.manifest["feature_shape"], resent=resent, fine_tuned="head" in settings)


def build_manifest(upload: CachedUpload) -> Json:
    """What is said of an upload: :class:`fedws.split_learning.upload_progress.UploadManifest`."""
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
    """Encode the features of every sample once a run, and return what was made, with no tensors.

    ``prepare_extractor`` picks the extractor among those that the request carries. Raises TaskError for a request that
    differs from the one that was carried out, and TaskFailed where the features cannot be stored.
    """
    uploads, feature_settings = open_uploads(context), check_settings_size(settings.feature_settings)
    cached = uploads.find_completed()
    if cached is not None:
        if cached.manifest["settings"] != feature_settings:
            raise TaskError(
                "the features of this run were made with other settings; new noise would spend privacy twice"
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
        with seeds.seed_generators(request.seed):  # a data set may draw; noise never comes from a seed
            cached = uploads.write_upload(lambda first: encode_batches(extractor, settings, context, first))
    except OSError as error:
        raise TaskFailed(f"{context.node} cannot keep its features: {error.strerror or error}") from None
    return context.build_result(request, build_manifest(cached))
