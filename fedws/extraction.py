"""Runs the first half of a model over a node's samples, forward only, and encodes what comes."""

from collections.abc import Iterator
from typing import Annotated, Self

import torch
from pydantic import Field, model_validator

from fedws import extractors, labels, learning
from fedws.coded import Coded
from fedws.cuts import split
from fedws.errors import Stopped, TaskError, UsageError
from fedws.messages import Json
from fedws.noise import Noise
from fedws.plan import Count
from fedws.samples import batches
from fedws.tensors import Tensors, difference, digest
from fedws.uploads import Batch, Upload, Uploads

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
MOST_EXTRACTORS = 16


class Cut(Coded):
    """Where a model is cut, and how what it gives there leaves."""

    model: str
    cut: str
    classes: Annotated[int, Field(ge=0, le=2**20)]
    """How many the labels tell apart; 0: they are other numbers, or several, and leave as they are."""

    @model_validator(mode="after")
    def _plain(self) -> Self:
        if self.label_epsilon is not None and self.classes < 2:
            raise ValueError("labels that are no classes cannot be randomised; only clear ones can be asked for")
        return self


class Extraction(Cut):
    """What an order to extract says."""

    dataset: str
    extractors: Annotated[list[Digest], Field(min_length=1, max_length=MOST_EXTRACTORS)]
    """Their digests; the tensors come with the order only when the node has asked for them. It takes one by chance."""
    batch_size: Count = 128
    cuda: bool = False

    @property
    def asked(self) -> Json:
        """What the features depend on."""
        return self.model_dump(exclude={"batch_size", "cuda"})

    @property
    def wanted(self) -> list[str]:
        """The digests of all the tensors that it takes."""
        return self.extractors

    def pieces(self, sent: Tensors, uploads: Uploads) -> list[Tensors] | None:
        """The tensors of :attr:`wanted`, as they were ``sent`` or are cached; None when some are not here.

        Raises TaskError for others than those that are meant, and for what is not of this model; OSError when they
        cannot be cached.
        """
        if not sent:
            cached = [found for one in self.wanted if (found := uploads.cached(one)) is not None]
            return cached if len(cached) == len(self.wanted) else None
        pieces = extractors.parts(sent)
        if [digest(piece) for piece in pieces] != self.wanted:
            raise TaskError("the extractor is not the one that was pretrained: its digest is another")
        for piece in pieces[: len(self.extractors)]:
            self.loaded(piece)
        for piece in pieces[len(self.extractors) :]:
            self.loaded(piece, head=True)
        for piece in pieces:
            uploads.cache(piece)
        return pieces

    def drawn(self, pieces: list[Tensors]) -> Tensors:
        """One of the extractors, by chance that nobody else knows."""
        return pieces[int(Noise().integers(len(self.extractors), (1,)))]

    def loaded(self, tensors: Tensors, *, head: bool = False) -> torch.nn.Module:
        """The extractor with those weights, or the head. Raises TaskError when they are not of this model and cut."""
        try:
            half = split(learning.initial(self.model, seed=0), self.cut)[head]
        except UsageError as error:
            raise TaskError(str(error)) from None
        problem = difference(tensors, half.state_dict())
        if problem:
            what = f"the {'head' if head else 'extractor'} of {self.model}, cut at {self.cut}"
            raise TaskError(f"{what}, is another one here: {problem}")
        half.load_state_dict(dict(tensors))
        return half


@torch.inference_mode()
def encoded(
    extractor: torch.nn.Module, settings: Extraction, workspace: learning.Workspace, first: int = 0
) -> Iterator[Batch]:
    """A batch of samples at a time as it may leave, from number ``first`` on.

    Raises TaskError when samples do not fit, Stopped when told to stop.
    """
    place, encoding, noise = learning.device(settings.cuda), settings.encoder(), Noise()
    extractor.to(place).eval()
    for inputs, targets in batches(workspace.data, torch.arange(first, len(workspace.data)), settings.batch_size):
        if workspace.stop.is_set():
            raise Stopped("told to stop")
        try:
            features = extractor(inputs.to(place)).cpu()
        except RuntimeError:  # whose text may tell of the data
            sizes = f"{list(inputs.shape[1:])} on {workspace.node}"
            raise TaskError(f"samples of {sizes} do not fit the extractor of {settings.model}") from None
        shape, told = features.shape[1:], _labels(targets, settings, workspace.node, noise)
        features = features.nan_to_num()  # that a sample's overflow should not be told from the answer
        yield Batch(encoding.encode(features, noise), told, shape)


def _labels(targets: object, settings: Extraction, node: str, noise: Noise) -> torch.Tensor:
    """The labels of a batch as they may leave. Raises TaskError."""
    if not isinstance(targets, torch.Tensor) or not targets.dim():
        raise TaskError(f"the labels on {node} are no tensors of one shape, which is all that can be sent")
    if not settings.classes:
        return targets.to(torch.float32 if targets.is_floating_point() else torch.int64)
    if targets.dim() != 1 or targets.is_floating_point():
        raise TaskError(f"the labels on {node} are no classes, as {settings.model} tells them apart")
    if int(targets.min()) < 0 or int(targets.max()) >= settings.classes:
        raise TaskError(f"{node} holds labels beyond the {settings.classes} of {settings.model}")
    return labels.randomise(targets.to(torch.int64), settings.classes, settings.label_epsilon, noise)


def coded(upload: Upload) -> Coded:
    """How the records of an upload were encoded."""
    asked = upload.facts["asked"]
    return Coded(encoding=asked["encoding"], label_epsilon=asked["label_epsilon"])


def facts(upload: Upload) -> Json:
    """What is said of an upload: :class:`fedws.deliveries.Facts`."""
    made = {key: upload.facts[key] for key in ("records", "bytes", "shape", "label_shape", "label_dtype")}
    spent = coded(upload).spent(made["shape"])
    return {**made, "encoding": spent.encoding, "epsilon": spent.epsilon, "label_epsilon": spent.label_epsilon}
