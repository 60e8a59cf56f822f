"""Training and scoring on the data of one node: what tasks are made of."""

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

import torch
from pydantic import BaseModel, Field, ValidationError

from fedws import labels, registry
from fedws.encoded import encoded
from fedws.errors import Stopped, TaskError
from fedws.interfaces import Dataset, Loss
from fedws.keepsake import Keepsake
from fedws.messages import Json, Order, Report
from fedws.plan import Scoring, Training, explain
from fedws.policy import Features, Policy
from fedws.samples import batches
from fedws.tensors import Tensors, difference
from fedws.uploads import Uploads

Settings = TypeVar("Settings", bound=BaseModel)

_generator = threading.RLock()  # torch's default generator is one per process


@dataclass(frozen=True)
class Workspace:
    """What a task may use on its node."""

    node: str
    dataset: str
    """The name under which this node's data set is registered."""
    data: Dataset
    stop: threading.Event = field(default_factory=threading.Event)
    threads: int = 1
    """How many threads may score batches at once."""
    keepsake: Keepsake = field(default_factory=Keepsake)
    """What tasks have kept of this run; they use :meth:`recall` and :meth:`keep`."""
    uploads: Uploads = field(default_factory=Uploads)
    """What was made of the samples for this run."""
    policy: Policy = field(default_factory=Policy)
    leaving: dict[str, tuple[Features, Callable[[], None]]] = field(default_factory=dict)
    """What features the answer to an order holds, by the order's id; tasks use :meth:`announce`."""

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
        with registry.task_errors():
            module = initial(spec, seed=0)  # its own weights are for nothing, but drawing them is seen by other nodes
        problem = difference(tensors, module.state_dict())
        if problem:
            raise TaskError(f"model {spec} is another one on {self.node}: {problem}")
        module.load_state_dict(dict(tensors))
        return module

    def scored(self, settings: Scoring, tensors: Tensors) -> torch.nn.Module:
        """The model to score, with what passes from half to half encoded if it is cut. Raises TaskError."""
        module = self.module(settings.model, tensors)
        return encoded(module, settings) if settings.cut else module

    def recall(self, order: Order) -> Tensors | None:
        """The state that ``order`` starts from, as kept when the order of round ``order.base`` was answered.

        None when it starts from none. Raises TaskError when the state is not here any more.
        """
        return self.keepsake.recall(order)

    def keep(self, order: Order, tensors: Tensors) -> None:
        """Keep ``tensors`` as this node's state after ``order``; a task with state does so before each report."""
        self.keepsake.keep(order, tensors)

    def announce(self, order: Order, features: Features, then: Callable[[], None]) -> None:
        """Say that the answer to ``order`` will hold features, before they are computed; ``then``, when it leaves.

        Raises TaskError with the reason when the node's owner does not allow them.
        """
        self.policy.allow(features)
        self.leaving[order.id] = features, then

    def report(self, order: Order, metrics: Json, tensors: Tensors | None = None) -> Report:
        """The good answer to ``order``, from this node and its samples."""
        return Report(
            order=order.id,
            worker=self.node,
            round=order.round,
            samples=len(self.data),
            metrics=metrics,
            tensors=tensors or {},
        )


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

    samples: Annotated[int, Field(ge=1)]
    loss: float
    """The true mean over samples."""
    correct: int | None = None
    histogram: list[int] | None = None
    """How often each label was predicted."""

    @property
    def accuracy(self) -> float | None:
        """Share of correct predictions, 0 to 1; None for a model that does not classify."""
        return None if self.correct is None else self.correct / self.samples


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


def train(
    module: torch.nn.Module,
    work: Workspace,
    settings: Training,
    seed: int,
    penalty: Callable[[torch.nn.Module], torch.Tensor] | None = None,
) -> Trained:
    """Train ``module`` in place on the node's data: ``epochs`` shuffled epochs, at most ``batches`` batches in all.

    ``penalty(module)``, a scalar, is added to each batch's loss. The order of samples is ``torch.randperm`` of a
    generator seeded with ``seed``, one draw an epoch. Raises TaskError for an unknown loss or optimizer, Stopped when
    told to stop.
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
            if penalty is not None:
                loss = loss + penalty(module)
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


def score(module: torch.nn.Module, work: Workspace, settings: Scoring) -> Score:
    """Score ``module`` on all of the node's data. Raises TaskError for an unknown loss, Stopped when told to stop.

    ``loss`` is the mean over samples, whatever the batch size. Outputs of shape [n, classes] with integer targets of
    shape [n] are a classifier's: the class of the largest output is the prediction. ``work.threads`` threads take
    batches in turn, which needs no barrier between them as torch's own threads do; sums are in the batches' order.
    """
    place = device(settings.cuda)
    module.to(place).eval()
    loss_of: Loss = _piece("loss", settings.loss)
    source = enumerate(batches(work.data, torch.arange(len(work.data)), settings.batch_size))
    turn = threading.Lock()
    done: dict[int, tuple[torch.Tensor, int, torch.Tensor | None]] = {}

    @torch.inference_mode()
    def drain() -> None:
        while True:
            with turn:  # a user's data set need not bear several readers
                found = next(source, None)
            if found is None:
                return
            number, (inputs, targets) = found
            if work.stop.is_set():
                raise Stopped("told to stop")
            outputs, targets = module(inputs.to(place)), targets.to(place)
            loss = loss_of(outputs, targets).cpu().double() * len(targets)
            done[number] = loss, len(targets), _confusion(outputs, targets)

    with ThreadPoolExecutor(work.threads) as pool:
        for result in [pool.submit(drain) for _ in range(work.threads)]:
            result.result()
    if not done:
        raise TaskError(f"{work.node} holds no samples")
    losses, counts, confusions = zip(*(done[number] for number in sorted(done)), strict=True)
    samples, loss = sum(counts), float(sum(losses)) / sum(counts)
    if any(confusion is None for confusion in confusions):
        return Score(samples, loss)
    correct, *histogram = sum(confusions).tolist()
    return Score(samples, loss, correct, histogram)


def _confusion(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor | None:
    """Correct predictions, then predictions of each class, int64 [1 + classes]; None for outputs of no classifier."""
    if not labels.classes(outputs, targets):
        return None
    predicted = outputs.argmax(dim=1)
    correct = (predicted == targets).sum().reshape(1)
    return torch.cat([correct, torch.bincount(predicted, minlength=outputs.shape[1])]).cpu()


def _shuffled(work: Workspace, settings: Training, generator: torch.Generator) -> Iterator[tuple[Any, Any]]:
    """The batches of a training, in the order that ``generator`` draws."""
    if not len(work.data):
        raise TaskError(f"{work.node} holds no samples")
    left = settings.batches
    for _ in range(settings.epochs):
        if not left:
            return
        order = torch.randperm(len(work.data), generator=generator)[: left * settings.batch_size]
        for inputs, targets in batches(work.data, order, settings.batch_size):
            if work.stop.is_set():
                raise Stopped("told to stop")
            left -= 1
            yield inputs, targets


def _piece(kind: str, spec: str, *given: Any) -> Any:
    with registry.task_errors():
        return registry.build(kind, spec, *given)
