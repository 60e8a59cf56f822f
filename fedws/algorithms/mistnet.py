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
from pydantic import Field

from fedws.core import registry
from fedws.core.errors import TaskError, UsageError
from fedws.core.registry import register
from fedws.core.task_settings import UNLIMITED, Count, Scoring, Training
from fedws.core.tensors import Tensors, digest
from fedws.core.validation import Positive
from fedws.data import loading
from fedws.data.base import Dataset
from fedws.privacy.spending import Features
from fedws.protocol.messages import Json, Order, Report
from fedws.scheduling.base import Ask
from fedws.split_learning import head_training, pretrained_file, pretraining
from fedws.split_learning.base import Basis
from fedws.split_learning.extraction import Extraction, extracted, spent
from fedws.split_learning.extractor_pool import MOST, join, parts
from fedws.split_learning.feature_crops import problem
from fedws.split_learning.feature_store import FEATURES, LABELS, Records
from fedws.split_learning.fine_tuning import Adaptation
from fedws.split_learning.head_training import LIKELIHOODS, Epoch
from fedws.split_learning.model_split import cuts, split
from fedws.split_learning.pretraining import CLEAR, Lesson
from fedws.split_learning.release_format import Coded
from fedws.split_learning.upload_cache import Uploads
from fedws.split_learning.upload_progress import Kept, Part, chunk
from fedws.training import building, optimizer_state
from fedws.training.base import Task
from fedws.training.task_context import Workspace

# ------------------------------------------------------------------ on the worker


@register("task", "mistnet.extract", releases="features")
def extract(order: Order, workspace: Workspace) -> Report:
    """Encode the features of every sample, once a run, and keep them; the report says what :func:`upload` will send."""
    settings = workspace.settings(order, Extraction)
    return extracted(order, workspace, settings, lambda pieces: pieces[0])


@register("task", "mistnet.adapt", releases="features", explicit=True)
def adapt(order: Order, workspace: Workspace) -> Report:
    """As :func:`extract`, with an extractor that is first trained on the samples, and stays on the device."""
    settings = workspace.settings(order, Adaptation)

    def adapted(pieces: list[Tensors]) -> Tensors:
        return settings.adapted(pieces[0], pieces[1], workspace, order.seed)

    return extracted(order, workspace, settings, adapted)


@register("task", "mistnet.upload", releases="features")
def upload(order: Order, workspace: Workspace) -> Report:
    """Send records of what was extracted: the same bits whenever they are asked for."""
    part, made = workspace.settings(order, Part), workspace.resource(Uploads).find()
    if made is None or made.acknowledged:
        raise TaskError(f"{workspace.node} has {'no' if made is None else 'deleted the'} features of this run")
    if (held := made.facts["asked"]["dataset"]) != workspace.dataset:
        raise TaskError(f"the features of this run are of {held}; {workspace.node} holds {workspace.dataset}")
    first, count, records = part.first, part.count, made.facts["records"]
    if part.model != made.facts["asked"]["model"]:
        raise TaskError(f"the features of this run are of {made.facts['asked']['model']}, not of {part.model}")
    if first + count > records or count > chunk(made.facts):
        raise TaskError(f"{count} records from {first} on are no chunk of {records}")
    workspace.announce(order, spent(made, again=made.sent(first, count)), lambda: made.note(first, count))
    features, targets = made.part(first, count)
    return workspace.report(order, {"first": part.first}, {FEATURES: features, LABELS: targets})


@register("task", "mistnet.acknowledge", releases="features")
def acknowledge(order: Order, workspace: Workspace) -> Report:
    """The coordinator has every record: delete them."""
    workspace.settings(order, Kept)
    made = workspace.resource(Uploads).find()
    if made is not None:
        made.acknowledge()
    return workspace.report(order, {})


# ------------------------------------------------------------------ on the coordinator, in a process of its own


@cache
def _public(dataset: str) -> Dataset:
    return loading.load(dataset, None, train=True)


def pretrain(order: Order, workspace: Workspace) -> Report:
    """An epoch of the whole model on public data, which the settings call ``dataset``; with it, of other extractors."""
    settings = Lesson.model_validate(order.settings)
    public = replace(workspace, dataset=settings.dataset, data=_public(settings.dataset))
    names = building.initial(settings.model, seed=0).state_dict()
    module = public.module(settings.model, {name: order.tensors[name] for name in names})
    others = {name: tensor for name, tensor in order.tensors.items() if name not in names}
    classes, label = pretraining.examine(module, public, settings)
    trained, tensors = pretraining.learn(module, others, public, settings, order.seed)
    told = {"classes": classes, "label": label, "sample": pretraining.shape(public)}
    return workspace.report(order, {**asdict(trained), **told}, tensors)


def train(order: Order, workspace: Workspace) -> Report:
    """An epoch of the head on every record that is stored by now; the report also holds the optimizer's memory."""
    settings, records = workspace.settings(order, Epoch), workspace.data
    assert isinstance(records, Records)
    memory = {name: tensor for name, tensor in order.tensors.items() if name.startswith(optimizer_state.PREFIX)}
    weights = {name: tensor for name, tensor in order.tensors.items() if name not in memory}
    module = workspace.module(settings.model, weights)
    loss, tensors = head_training.trained(module, memory, records, settings, workspace, order.seed)
    return workspace.report(order, {"loss": loss, "samples": len(records)}, tensors)


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
    extractor: Literal["one", "random"] = "one"
    """Whether all workers have the same, or each draws one of several and keeps to itself which."""
    extractors: Annotated[int, Field(ge=2, le=MOST)] = 3
    """How many are pretrained for ``random``; a file of pretrained ones has its own number."""
    fine_tune: Annotated[int, Field(ge=0)] = 0
    """Epochs for which a worker trains its extractor on its own samples first."""
    crop: Annotated[int, Field(ge=0)] = 0
    """By how many places feature maps are shifted at random when the head trains on them."""
    own: ClassVar[Mapping[str, Task]] = MappingProxyType({"mistnet.pretrain": pretrain, "mistnet.train": train})

    def __post_init__(self) -> None:
        assert self.coded  # or an encoding is wrong, and says so
        registry.find("dataset", registry.Spec.parse(self.public).name)
        if self.training.loss not in LIKELIHOODS and self.labels != "clear":
            raise UsageError(f"--loss {self.training.loss}: randomised labels want {' or '.join(LIKELIHOODS)}; {CLEAR}")
        module = building.initial(self.training.model, seed=0)
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

    def spent(self, shape: Sequence[int]) -> Features:
        """What a record with features of that shape spends."""
        return self.coded.spent(shape, adapted=self.fine_tune > 0)

    def scoring(self, plain: Scoring) -> Scoring:
        """How the evaluator passes a sample through both halves: encoded without noise, decoded as in training."""
        options = {"cut": self.place, "encoding": self.coded.encoding}
        return plain.model_copy(update={"wrapper": "encoded_split", "wrapper_options": options})

    def remarks(self) -> Sequence[str]:
        """What a person should know of the settings."""
        told, public = [], self.public
        if not self.pretrained:
            told.append(f"Pretraining {self.training.model} on {public} for {self.pretrain_epochs} epochs")
        if registry.Spec.parse(self.training.dataset).name == registry.Spec.parse(public).name:
            told.append(f"{public} are also what it is pretrained on: no score will tell what the devices add")
        if self.extractor == "random":
            told.append("Each worker draws one of several extractors; its features may tell which: it adds no privacy")
        if self.fine_tune:
            told.append(f"Devices train first (epochs: {self.fine_tune}), which takes time and memory there")
        return told

    def begin(self, model: Tensors) -> Basis:
        """The pretrained model from its file; or the initial one, with others' extractors where those are asked for.

        Raises UsageError for a file that holds none, or another model.
        """
        if self.pretrained:
            found = pretrained_file.load_for(Path(self.pretrained), self.training.model, model)
            own, origin, file = self._half(0, found.model), found.origin, f"--pretrained {self.pretrained}"
            if not origin.classes and self.labels != "clear":
                raise UsageError(f"{file} tells no classes apart; {CLEAR}")
            others = pretrained_file.several(found, own, file) if self.extractor == "random" else {}
            return Basis(found.model, others, origin.classes, origin.label, origin.sample)
        if self.extractor == "random":
            return Basis(model, pretraining.beginnings(self.training.model, self.place, self.extractors - 1))
        return Basis(model)

    def shape(self, sample: Sequence[int]) -> Sequence[int]:
        """Of the features of a sample of that shape, as the extractor gives them. Raises UsageError for the crop."""
        extractor, _ = split(building.initial(self.training.model, seed=0), self.place)
        with torch.inference_mode():
            found = tuple(extractor.eval()(torch.zeros(1, *sample)).shape[1:])
        if why := problem(found, self.crop):
            raise UsageError(why)
        return found

    def pretraining(self, model: Tensors, others: Tensors, epoch: int) -> Ask | None:
        """What to have done in that epoch of pretraining, from 1; None after the last."""
        if self.pretrained or epoch > self.pretrain_epochs:
            return None
        changes = {"dataset": self.public, "batches": UNLIMITED, "epochs": 1}
        settings = Lesson(**{**self.training.model_dump(), **changes}, cut=self.place, clear=self.labels == "clear")
        return Ask("mistnet.pretrain", settings.model_dump(), {**model, **others})

    def extraction(self, model: Tensors, others: Tensors, classes: int, *, send: bool) -> Ask:
        """What to ask of a worker first; the extractors, and the head to adapt one, go with it if the worker wants."""
        pieces, at = [self._half(0, model), *parts(others)], self.training
        asked = {
            **self._cut(classes),
            "dataset": at.dataset,
            "extractors": [digest(piece) for piece in pieces],
            "cuda": at.cuda,
        }
        if self.fine_tune:
            head = self._half(1, model)
            pieces.append(head)
            asked |= {"head": digest(head), "epochs": self.fine_tune, "train_batch_size": at.batch_size}
            asked |= {"loss": at.loss, "optimizer": at.optimizer, "lr": at.lr, "drop_last": at.drop_last}
        task, settings = ("mistnet.adapt", Adaptation) if self.fine_tune else ("mistnet.extract", Extraction)
        return Ask(task, settings(**asked).model_dump(), join(pieces) if send else {})

    def epoch(self, model: Tensors, memory: Tensors, classes: int, shape: Sequence[int], epoch: int) -> Ask:
        """What to have done in that epoch of training, from 1."""
        at = self.training.at(epoch)
        own = at.model_dump(include={"loss", "optimizer", "lr", "batch_size", "drop_last", "cuda"})
        settings = Epoch(**self._cut(classes), **own, shape=list(shape), crop=self.crop)
        return Ask("mistnet.train", settings.model_dump(), {**model, **memory})

    def upload(self, first: int, count: int) -> Ask:
        """Ask for records."""
        return Ask("mistnet.upload", Part(model=self.training.model, first=first, count=count).model_dump(), {})

    def acknowledgement(self) -> Ask:
        """Tell a worker that all of its records are here."""
        return Ask("mistnet.acknowledge", Kept(model=self.training.model).model_dump(), {})

    def _cut(self, classes: int) -> Json:
        return {**self.coded.model_dump(), "model": self.training.model, "cut": self.place, "classes": classes}

    def _half(self, number: int, model: Tensors) -> Tensors:
        """What of the model belongs to the extractor, 0, or to the head, 1."""
        names = split(building.initial(self.training.model, seed=0), self.place)[number].state_dict()
        return {name: model[name] for name in names}
