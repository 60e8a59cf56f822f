"""MistNet: Wang et al., "MistNet: Towards Private Neural Network Training with Local Differential Privacy" (Plato's
docs/papers). Workers run the first layers of a pretrained net forward, once, send noisy bits, and never train; the
coordinator trains the other layers on them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from fedws import holding, labels, learning, momentum, pretrained, registry
from fedws.coded import Coded
from fedws.cuts import cuts, split
from fedws.deliveries import chunk
from fedws.errors import TaskError, UsageError
from fedws.extraction import Cut, Extraction, encoded
from fedws.featurestore import FEATURES, LABELS, Records
from fedws.interfaces import Ask, Dataset, Task
from fedws.learning import Workspace
from fedws.messages import Json, Order, Report
from fedws.plan import Count, Scoring, Training
from fedws.ranges import Positive
from fedws.registry import register
from fedws.tensors import Tensors, detached, digest
from fedws.uploads import Upload

# ------------------------------------------------------------------ on the worker


@register("task", "mistnet.extract")
def extract(order: Order, workspace: Workspace) -> Report:
    """Encode the features of every sample, once a run, and keep them; the report says what :func:`upload` will send."""
    settings = workspace.settings(order, Extraction)
    asked = {key: value for key, value in settings.model_dump().items() if key not in ("batch_size", "cuda")}
    if not workspace.uploads.run:
        raise TaskError("a run without an id could not ask for the same features again")
    made = workspace.uploads.find()
    if made is not None:
        if made.facts["asked"] != asked:
            raise TaskError(
                "the features of this run were made with other settings; new noise would spend privacy twice"
            )
        return workspace.report(order, _facts(made))
    try:
        workspace.policy.allow(settings.spent(()))
    except UsageError as error:
        raise TaskError(str(error)) from None
    tensors = order.tensors or workspace.uploads.extractor(settings.extractor)
    if tensors is None:
        return workspace.report(order, {"wanted": "extractor"})
    extractor = settings.loaded(tensors)
    shape: list[int] = []  # known when the first batch is through
    try:
        workspace.uploads.keep_extractor(tensors)
        parts = encoded(extractor, settings, workspace, shape)
        return workspace.report(order, _facts(workspace.uploads.make(parts, {"asked": asked, "shape": shape})))
    except OSError as error:
        raise TaskError(f"{workspace.node} cannot keep its features: {error.strerror or error}") from None


def _coded(upload: Upload) -> Coded:
    asked = upload.facts["asked"]
    return Coded(encoding=asked["encoding"], label_epsilon=asked["label_epsilon"])


def _facts(upload: Upload) -> Json:
    """:class:`fedws.deliveries.Facts`."""
    spent = _coded(upload).spent(upload.facts["shape"])
    told = {"encoding": spent.encoding, "epsilon": spent.epsilon, "label_epsilon": spent.label_epsilon}
    return {**told, **{key: upload.facts[key] for key in ("records", "bytes", "shape")}}


class Kept(BaseModel):
    """What an order about features that were made says."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: str
    """That they are of, so that a policy can tell."""


class Part(Kept):
    """What an order to upload says: which records."""

    first: Annotated[int, Field(ge=0)]
    count: Count


@register("task", "mistnet.upload")
def upload(order: Order, workspace: Workspace) -> Report:
    """Send records of what was extracted: the same bits whenever they are asked for."""
    part, made = workspace.settings(order, Part), workspace.uploads.find()
    if made is None or made.acknowledged:
        raise TaskError(f"{workspace.node} has {'no' if made is None else 'deleted the'} features of this run")
    first, count, records = part.first, part.count, made.facts["records"]
    if part.model != made.facts["asked"]["model"]:
        raise TaskError(f"the features of this run are of {made.facts['asked']['model']}, not of {part.model}")
    if first + count > records or count > chunk(made.facts["bytes"]):
        raise TaskError(f"{count} records from {first} on are no chunk of {records}")
    spent = _coded(made).spent(made.facts["shape"], again=made.sent(first, count))
    workspace.announce(order, spent, lambda: made.note(first, count))
    features, targets = made.part(first, count)
    return workspace.report(order, {"first": part.first}, {FEATURES: features, LABELS: targets})


@register("task", "mistnet.acknowledge")
def acknowledge(order: Order, workspace: Workspace) -> Report:
    """The coordinator has every record: delete them."""
    workspace.settings(order, Kept)
    made = workspace.uploads.find()
    if made is not None:
        made.acknowledge()
    return workspace.report(order, {})


# ------------------------------------------------------------------ on the coordinator, in a process of its own


@cache
def _public(dataset: str) -> Dataset:
    return holding.load(dataset, None, train=True)


def pretrain(order: Order, workspace: Workspace) -> Report:
    """An epoch of the whole model on public data, which the settings call ``dataset``."""
    settings = Training.model_validate(order.settings)
    public = replace(workspace, dataset=settings.dataset, data=_public(settings.dataset))
    module = public.module(settings.model, order.tensors)
    try:
        with torch.inference_mode():
            classes = module.eval()(public.data[0][0].unsqueeze(0)).shape[1]
    except RuntimeError:
        what = f"samples of {settings.dataset} do not fit {settings.model}"
        raise TaskError(
            f"{what}: pretrain it on others with 'fedws pretrain', and name the file with --pretrained"
        ) from None
    trained = learning.train(module, public, settings, order.seed)
    told = {**asdict(trained), "classes": classes, "sample": list(public.data[0][0].shape)}
    return workspace.report(order, told, detached(module.state_dict()))


class Epoch(Cut):
    """What an order to train the head says."""

    shape: list[int]
    """Of a record's features."""
    optimizer: str
    lr: Positive
    batch_size: Count
    cuda: bool


def train(order: Order, workspace: Workspace) -> Report:
    """An epoch of the head on every record that is stored by now; the report also holds the optimizer's memory."""
    settings, records = workspace.settings(order, Epoch), workspace.data
    assert isinstance(records, Records)
    weights = {name: tensor for name, tensor in order.tensors.items() if not name.startswith(momentum.PREFIX)}
    module = workspace.module(settings.model, weights)
    place, encoding = learning.device(settings.cuda), settings.encoder()
    _, head = split(module.to(place), settings.cut)
    head.train()
    optimizer = registry.build("optimizer", settings.optimizer, head.parameters(), settings.lr)
    momentum.remember(optimizer, order.tensors)
    total = 0.0
    with learning.seeded(order.seed) as generator:
        for indices in torch.randperm(len(records), generator=generator).split(settings.batch_size):
            if workspace.stop.is_set():
                raise learning.Stopped("told to stop")
            packed, targets = records.batch(indices)
            features = encoding.decode(packed, settings.shape).to(place)
            if features.dim() == 4:  # a third faster on CPUs
                features = features.to(memory_format=torch.channels_last)
            outputs = head(features).log_softmax(1)  # which leaves log-probabilities as they are
            loss = labels.loss(outputs, targets.to(place), settings.label_epsilon)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(targets)
    metrics = {"loss": total / len(records), "samples": len(records)}
    return workspace.report(order, metrics, detached({**module.state_dict(), **momentum.memory(optimizer)}))


# ------------------------------------------------------------------ on the coordinator


@register("strategy", "mistnet")
@dataclass(frozen=True)
class MistNet:
    """Pretrains, gathers noisy features once, and trains the rest of the model on them."""

    training: Training
    _: KW_ONLY
    cut: str = ""
    """Where the model is cut, as ``pool1`` or ``features.2``, inclusive; empty: the model's own place for it."""
    encoding: str = "bits"
    epsilon: Positive | None = None
    """Per feature value, which is per bit; None: 2 for encodings with noise."""
    label_epsilon: Positive = 4.0
    labels: Literal["randomised", "clear"] = "randomised"
    public: str = "digits"
    """The data set that the model is pretrained on."""
    pretrain_epochs: Count = 20
    pretrained: str = ""
    """A file with a model that is pretrained already."""
    own: ClassVar[Mapping[str, Task]] = MappingProxyType({"mistnet.pretrain": pretrain, "mistnet.train": train})

    def __post_init__(self) -> None:
        assert self.coded  # or an encoding is wrong, and says so
        registry.find("dataset", registry.Spec.parse(self.public).name)
        if self.training.loss not in ("nll", "cross_entropy"):
            raise UsageError(f"--loss {self.training.loss}: mistnet trains classifiers, with nll or cross_entropy")
        module = learning.initial(self.training.model, seed=0)
        if not self.place:
            name, there = self.training.model, ", ".join(cuts(module)) or "none"
            raise UsageError(f"--cut is needed: {name} has no place of its own to be cut; there are: {there}")
        split(module, self.place)

    @property
    def place(self) -> str:
        """The cut."""
        model = registry.find("model", registry.Spec.parse(self.training.model).name)
        return self.cut or getattr(model, "cut", "")

    @property
    def coded(self) -> Coded:
        """How records leave the workers."""
        return Coded.of(self.encoding, self.epsilon, self.label_epsilon if self.labels == "randomised" else None)

    def scoring(self, plain: Scoring) -> Scoring:
        """How the evaluator passes a sample through both halves: encoded without noise, decoded as in training."""
        return plain.model_copy(update={"cut": self.place, "encoding": self.coded.encoding})

    def begin(self, model: Tensors) -> tuple[Tensors, int, Sequence[int]]:
        """The pretrained model, its classes, and the shape of its samples; nothing of that where it must be trained.

        Raises UsageError for a file that holds none, or another model.
        """
        if not self.pretrained:
            return model, 0, ()
        found, origin = pretrained.load_for(Path(self.pretrained), self.training.model, model)
        return found, origin.classes, origin.sample

    def shape(self, sample: Sequence[int]) -> Sequence[int]:
        """Of the features of a sample of that shape, as the extractor gives them."""
        extractor, _ = split(learning.initial(self.training.model, seed=0), self.place)
        with torch.inference_mode():
            return tuple(extractor.eval()(torch.zeros(1, *sample)).shape[1:])

    def pretraining(self, model: Tensors, epoch: int) -> Ask | None:
        """What to have done in that epoch of pretraining, from 1; None after the last."""
        if self.pretrained or epoch > self.pretrain_epochs:
            return None
        settings = self.training.model_copy(update={"dataset": self.public, "batches": 2**31})
        return Ask("mistnet.pretrain", settings.model_dump(), model)

    def extraction(self, model: Tensors, classes: int, *, send: bool) -> Ask:
        """What to ask of a worker first; the extractor goes with it if the worker wants it."""
        extractor = self._extractor(model)
        settings = Extraction(
            **self._cut(classes), dataset=self.training.dataset, extractor=digest(extractor), cuda=self.training.cuda
        )
        return Ask("mistnet.extract", settings.model_dump(), extractor if send else {})

    def epoch(self, model: Tensors, memory: Tensors, classes: int, shape: Sequence[int], epoch: int) -> Ask:
        """What to have done in that epoch of training, from 1."""
        at = self.training.at(epoch)
        settings = Epoch(
            **self._cut(classes),
            shape=list(shape),
            optimizer=at.optimizer,
            lr=at.lr,
            batch_size=at.batch_size,
            cuda=at.cuda,
        )
        return Ask("mistnet.train", settings.model_dump(), {**model, **memory})

    def upload(self, first: int, count: int) -> Ask:
        """Ask for records."""
        return Ask("mistnet.upload", Part(model=self.training.model, first=first, count=count).model_dump(), {})

    def acknowledgement(self) -> Ask:
        """Tell a worker that all of its records are here."""
        return Ask("mistnet.acknowledge", Kept(model=self.training.model).model_dump(), {})

    def _cut(self, classes: int) -> Json:
        return {**self.coded.model_dump(), "model": self.training.model, "cut": self.place, "classes": classes}

    def _extractor(self, model: Tensors) -> Tensors:
        names = split(learning.initial(self.training.model, seed=0), self.place)[0].state_dict()
        return {name: model[name] for name in names}
