"""Training and scoring on the data of one node: what tasks are made of."""

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ValidationError

from fedws import registry
from fedws.errors import FedwsError, TaskError
from fedws.interfaces import Dataset, Loss
from fedws.messages import Order
from fedws.plan import Scoring, Training, explain
from fedws.samples import batches
from fedws.tensors import Tensors, difference

Settings = TypeVar("Settings", bound=BaseModel)

_generator = threading.Lock()  # torch's default generator is one per process


class Stopped(FedwsError):
    """The task was told to stop: its link is gone or the node is ending."""


@dataclass(frozen=True)
class Workspace:
    """What a task may use on its node."""

    node: str
    dataset: str
    """The name under which this node's data set is registered."""
    data: Dataset
    stop: threading.Event = field(default_factory=threading.Event)

    def settings(self, order: Order, kind: type[Settings]) -> Settings:
        """The order's settings, checked. Raises TaskError."""
        try:
            settings = kind.model_validate(order.settings)
        except ValidationError as error:
            raise TaskError(f"settings: {explain(error)}") from None
        wanted = getattr(settings, "dataset", self.dataset)
        if wanted != self.dataset:
            raise TaskError(f"{self.node} holds {self.dataset}, not {wanted}")
        return settings

    def module(self, spec: str, tensors: Tensors) -> torch.nn.Module:
        """The registered model of that name, on the CPU, holding a copy of ``tensors``. Raises TaskError."""
        try:
            module: torch.nn.Module = registry.build("model", spec)
        except FedwsError as error:
            raise TaskError(str(error)) from None
        problem = difference(tensors, module.state_dict())
        if problem:
            raise TaskError(f"model {spec} is another one on {self.node}: {problem}")
        module.load_state_dict(dict(tensors))
        return module


@dataclass(frozen=True)
class Trained:
    """What a local training did."""

    loss: float
    """Mean training loss over the samples used."""
    samples: int
    device: str


@dataclass(frozen=True)
class Score:
    """How good a model is on a node's data. ``accuracy``, ``correct`` and ``histogram`` are for classifiers only."""

    samples: int
    loss: float
    """The true mean over samples."""
    correct: int | None = None
    histogram: list[int] | None = None
    """How often each label was predicted."""


def order_seed(run_seed: int, worker: str, round: int) -> int:
    """The seed of an order: the first 8 bytes, big-endian, of sha256 of ``"run seed/worker/round"``.

    >>> order_seed(1, "alice", 1) == order_seed(1, "alice", 2)
    False
    """
    digest = hashlib.sha256(f"{run_seed}/{worker}/{round}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[torch.Generator]:
    """Seed all of torch's randomness for a block, and give it back as it was; gives a generator for shuffling.

    Blocks take turns in a process, since layers such as dropout draw from its one default generator.
    """
    with _generator, torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield torch.Generator().manual_seed(seed)


def initial(spec: str, seed: int) -> torch.nn.Module:
    """A registered model with fresh weights drawn from ``seed``. Raises UnknownName or UsageError."""
    with seeded(seed):
        module: torch.nn.Module = registry.build("model", spec)
    return module


def device(cuda: bool) -> torch.device:
    """Where to compute: the GPU when it is wanted and there is one."""
    return torch.device("cuda" if cuda and torch.cuda.is_available() else "cpu")


def train(module: torch.nn.Module, work: Workspace, settings: Training, seed: int) -> Trained:
    """Train ``module`` in place on the node's data: ``epochs`` shuffled epochs, at most ``batches`` batches in all.

    The order of samples is ``torch.randperm`` of a generator seeded with ``seed``, one draw an epoch. Raises
    TaskError for an unknown loss or optimizer, Stopped when told to stop.
    """
    place = device(settings.cuda)
    module.to(place).train()
    loss_of: Loss = _piece("loss", settings.loss)
    optimizer: torch.optim.Optimizer = _piece("optimizer", settings.optimizer, module.parameters(), settings.lr)
    total, samples = torch.zeros((), dtype=torch.float64), 0
    with seeded(seed) as generator:
        for inputs, targets in _shuffled(work, settings, generator):
            optimizer.zero_grad()
            loss = loss_of(module(inputs.to(place)), targets.to(place))
            loss.backward()
            optimizer.step()
            total += loss.detach().cpu().double() * len(targets)
            samples += len(targets)
    module.to("cpu")
    return Trained(float(total) / samples, samples, place.type)


def gradient(module: torch.nn.Module, work: Workspace, settings: Training, seed: int) -> Trained:
    """Leave in ``module`` the gradient of the mean loss over the samples that :func:`train` would have used.

    Raises as :func:`train`.
    """
    place = device(settings.cuda)
    module.to(place).train()
    loss_of: Loss = _piece("loss", settings.loss)
    total, samples = torch.zeros((), dtype=torch.float64), 0
    with seeded(seed) as generator:
        for inputs, targets in _shuffled(work, settings, generator):
            loss = loss_of(module(inputs.to(place)), targets.to(place)) * len(targets)
            loss.backward()
            total += loss.detach().cpu().double()
            samples += len(targets)
    module.to("cpu")
    for parameter in module.parameters():
        if parameter.grad is not None:
            parameter.grad.div_(samples)
    return Trained(float(total) / samples, samples, place.type)


@torch.inference_mode()
def score(module: torch.nn.Module, work: Workspace, settings: Scoring) -> Score:
    """Score ``module`` on all of the node's data. Raises TaskError for an unknown loss, Stopped when told to stop.

    ``loss`` is the mean over samples, whatever the batch size. Outputs of shape [n, classes] with integer targets of
    shape [n] are a classifier's: the class of the largest output is the prediction.
    """
    place = device(settings.cuda)
    module.to(place).eval()
    loss_of: Loss = _piece("loss", settings.loss)
    total, samples, correct = torch.zeros((), dtype=torch.float64), 0, 0
    histogram: torch.Tensor | None = None
    for inputs, targets in batches(work.data, torch.arange(len(work.data)), settings.batch_size):
        if work.stop.is_set():
            raise Stopped("told to stop")
        outputs, targets = module(inputs.to(place)), targets.to(place)
        total += loss_of(outputs, targets).cpu().double() * len(targets)
        samples += len(targets)
        if outputs.dim() == 2 and targets.dim() == 1 and not targets.is_floating_point():
            predicted = outputs.argmax(dim=1)
            correct += int((predicted == targets).sum())
            counts = torch.bincount(predicted, minlength=outputs.shape[1])
            histogram = counts if histogram is None else histogram + counts
    if not samples:
        raise TaskError(f"{work.node} holds no samples")
    if histogram is None:
        return Score(samples, float(total) / samples)
    return Score(samples, float(total) / samples, correct, histogram.tolist())


def _shuffled(work: Workspace, settings: Training, generator: torch.Generator) -> Iterator[tuple[Any, Any]]:
    """The batches of a training, in the order that ``generator`` draws."""
    if not len(work.data):
        raise TaskError(f"{work.node} holds no samples")
    left = settings.batches
    for _ in range(settings.epochs):
        order = torch.randperm(len(work.data), generator=generator)[: left * settings.batch_size]
        for inputs, targets in batches(work.data, order, settings.batch_size):
            if work.stop.is_set():
                raise Stopped("told to stop")
            left -= 1
            yield inputs, targets


def _piece(kind: str, spec: str, *given: Any) -> Any:
    try:
        return registry.build(kind, spec, *given)
    except FedwsError as error:
        raise TaskError(str(error)) from None
