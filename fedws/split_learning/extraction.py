"""Runs the first half of a model over a node's samples, forward only, and encodes what comes."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Annotated, Any, Self

import torch
from pydantic import Field, model_validator

from fedws.core import registry, seeds
from fedws.core.errors import Stopped, TaskError, TaskFailed, UsageError
from fedws.core.task_settings import AT_A_TIME, AtATime
from fedws.core.tensors import Tensors, difference, digest
from fedws.data import labels
from fedws.data.nested_tensors import described, moved
from fedws.data.samples import batch, batches, fingerprint
from fedws.privacy import randomized_labels
from fedws.privacy.secure_noise import Noise
from fedws.privacy.spending import Features
from fedws.protocol.messages import Json, Order, Report
from fedws.split_learning import extractor_pool
from fedws.split_learning.model_split import split
from fedws.split_learning.release_format import Coded
from fedws.split_learning.upload_cache import Batch, Upload, Uploads, kept
from fedws.training import objective, task_context
from fedws.training.batching import groups
from fedws.training.model_outline import complete
from fedws.training.task_context import Workspace

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Cut(Coded):
    """Where a model is cut, and how what it gives there leaves."""

    model: str
    cut: str
    classes: Annotated[int, Field(ge=0, le=2**20)]
    """How many the labels tell apart, at least 2; or 0: they are other numbers, or several, and leave as they are."""

    @model_validator(mode="after")
    def _plain(self) -> Self:
        if self.classes == 1:
            raise ValueError("a single class is none")
        if self.label_epsilon is not None and not self.classes:
            raise ValueError("labels that are no classes cannot be randomised; only clear ones can be asked for")
        return self


class Extraction(Cut):
    """What an order to extract says."""

    dataset: str
    extractors: Annotated[list[Digest], Field(min_length=1, max_length=extractor_pool.MOST)]
    """Their digests; the tensors come with the order only when the node has asked for them. It takes one by chance."""
    batch_size: AtATime = AT_A_TIME
    cuda: bool = False

    @property
    def asked(self) -> Json:
        """What the features depend on."""
        return self.model_dump(exclude={"batch_size", "cuda"})

    @property
    def further(self) -> list[str]:
        """The digests of the tensors that it takes beside an extractor."""
        return []

    def pieces(self, sent: Tensors, workspace: task_context.Workspace) -> list[Tensors] | None:
        """An extractor, drawn by chance that nobody else knows, and what else is wanted; None when it is not here.

        ``sent`` are all extractors and the rest, joined, or nothing: then they are taken from the cache. Raises
        TaskError for others than those that are meant, and for what is not of this model; OSError when they cannot be
        cached.
        """
        pieces = extractor_pool.parts(sent)
        if sent and [digest(piece) for piece in pieces] != [*self.extractors, *self.further]:
            raise TaskError("the extractor is not the one that was pretrained: its digest is another")
        halves, uploads = self._outlines(workspace) if pieces else (), workspace.resource(Uploads)
        for number, piece in enumerate(pieces):
            self._check(piece, halves, head=number >= len(self.extractors))
        for piece in pieces:
            uploads.cache(piece)
        drawn = self.extractors[int(Noise().integers(len(self.extractors), (1,)))]
        found = [uploads.cached(one) for one in (drawn, *self.further)]
        return None if None in found else [one for one in found if one is not None]

    def loaded(self, tensors: Tensors, workspace: task_context.Workspace, *, head: bool = False) -> torch.nn.Module:
        """The extractor with those weights, or the head. Raises TaskError when they are not of this model and cut."""
        self._check(tensors, self._outlines(workspace), head=head)
        with registry.task_errors():
            half = split(complete(self.model), self.cut)[head]
        half.load_state_dict(dict(tensors))
        return half

    def fits(self, extractor: torch.nn.Module, workspace: task_context.Workspace) -> None:
        """Raises TaskError when the node's samples do not go through it."""
        inputs, _ = batch(workspace.data, torch.tensor([0]))
        with torch.inference_mode():
            self.features(extractor.eval(), inputs, workspace.node)

    def features(self, extractor: torch.nn.Module, inputs: Any, node: str) -> torch.Tensor:
        """Of samples. Raises TaskError when they do not fit, and where inputs or features are not one tensor."""
        if not isinstance(inputs, torch.Tensor):
            raise TaskError(f"inputs on {node} are {described(inputs)}; an extractor takes one tensor")
        try:
            features = extractor(inputs)
        except RuntimeError as error:  # whose text may tell of the data
            sizes = f"{list(inputs.shape[1:])} on {node}"
            raise TaskError(f"samples of {sizes} do not fit the extractor of {self.model}") from error
        if not isinstance(features, torch.Tensor):
            raise TaskError(f"the extractor of {self.model} gives {described(features)}; features must be one tensor")
        return features

    def _outlines(self, workspace: task_context.Workspace) -> tuple[torch.nn.Module, torch.nn.Module]:
        """Return the extractor and the head without values. Raises TaskError."""
        whole = workspace.outline(self.model)
        with registry.task_errors():
            return split(whole, self.cut)

    def _check(self, tensors: Tensors, halves: Sequence[torch.nn.Module], *, head: bool) -> None:
        problem = difference(tensors, halves[head].state_dict())
        if problem:
            what = f"the {'head' if head else 'extractor'} of {self.model}, cut at {self.cut}"
            raise TaskError(f"{what}, is another one here: {problem}")


def told_apart(workspace: task_context.Workspace) -> str:
    """Return what tells a node's samples from others."""
    with seeds.seeded(0):  # one that draws at random gives the same sample each time
        return fingerprint(workspace.data)


@torch.inference_mode()
def encoded(
    extractor: torch.nn.Module, settings: Extraction, workspace: task_context.Workspace, first: int = 0
) -> Iterator[Batch]:
    """A batch of samples at a time as it may leave, from number ``first`` on.

    Raises TaskError when samples do not fit, Stopped when told to stop.
    """
    place, encoding, noise = objective.device(settings.cuda), settings.encoder(), Noise()
    extractor.to(place).eval()
    order = torch.arange(first, len(workspace.data))
    for inputs, targets, _ in batches(workspace.data, groups(order, settings.batch_size)):
        if workspace.stop.is_set():
            raise Stopped("told to stop")
        features = settings.features(extractor, moved(inputs, place), workspace.node).cpu()
        shape, told = features.shape[1:], _labels(targets, settings, workspace.node, noise)
        features = features.nan_to_num()  # that a sample's overflow should not be told from the answer
        yield Batch(encoding.encode(features, noise), told, shape)


def _labels(targets: object, settings: Extraction, node: str, noise: Noise) -> torch.Tensor:
    """The labels of a batch as they may leave. Raises TaskError."""
    try:
        plain = labels.plain(targets)
    except ValueError as error:
        raise TaskError(f"{node}: {error}") from None
    if not settings.classes:
        return plain
    if plain.dim() != 1 or plain.is_floating_point():
        raise TaskError(f"the labels on {node} are no classes, as {settings.model} tells them apart")
    if int(plain.min()) < 0 or int(plain.max()) >= settings.classes:
        raise TaskError(f"{node} holds labels beyond the {settings.classes} of {settings.model}")
    return randomized_labels.randomise(plain, settings.classes, settings.label_epsilon, noise)


def spent(upload: Upload, *, again: bool = False) -> Features:
    """What a record of an upload spends, nothing if it is sent ``again``."""
    asked = upload.facts["asked"]
    coded = Coded(encoding=asked["encoding"], label_epsilon=asked["label_epsilon"])
    return coded.spent(upload.facts["shape"], again=again, adapted="head" in asked)


def facts(upload: Upload) -> Json:
    """What is said of an upload: :class:`fedws.split_learning.upload_progress.Facts`."""
    made = {key: upload.facts[key] for key in ("records", "bytes", "shape", "label_shape", "label_dtype")}
    each = spent(upload)
    return {**made, "encoding": each.encoding, "epsilon": each.epsilon, "label_epsilon": each.label_epsilon}


def extracted(
    order: Order, workspace: Workspace, settings: Extraction, choose: Callable[[list[Tensors]], Tensors]
) -> Report:
    """Encode the features of every sample once a run, and return what was made, with no tensors.

    ``choose`` picks the extractor among those that the request carries. Raises TaskError for a request that differs
    from the one that was carried out, and TaskFailed where the features cannot be stored.
    """
    uploads, asked = workspace.resource(Uploads), kept(settings.asked)
    made = uploads.find()
    if made is not None:
        if made.facts["asked"] != asked:
            raise TaskError(
                "the features of this run were made with other settings; new noise would spend privacy twice"
            )
        return workspace.report(order, facts(made))
    try:
        workspace.policy.allow(settings.spent(()))
    except UsageError as error:
        raise TaskError(str(error)) from None
    try:
        chosen = uploads.begun(asked, partial(told_apart, workspace))
        if chosen is None:
            pieces = settings.pieces(order.tensors, workspace)
            if pieces is None:
                return workspace.report(order, {"wanted": "extractor"})
            chosen = choose(pieces)
            uploads.start(asked, chosen, told_apart(workspace))
        extractor = settings.loaded(chosen, workspace)
        with seeds.seeded(order.seed):  # a data set may draw; noise never comes from a seed
            made = uploads.make(lambda first: encoded(extractor, settings, workspace, first))
    except OSError as error:
        raise TaskFailed(f"{workspace.node} cannot keep its features: {error.strerror or error}") from None
    return workspace.report(order, facts(made))
