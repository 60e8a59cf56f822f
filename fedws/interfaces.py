"""Every protocol of the system, on one page; but for those of encodings and stores: ``encoding.py``, ``store.py``.

Pieces that a plan or a peer names (strategies, tasks, models, ...) are made by a *factory* that the registry
finds by name. A factory takes what the run gives it as positional arguments, listed here per kind, and its own
options as keyword-only arguments with types and defaults; ``NAME:value,key=value`` fills those in.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import torch

from fedws.core.tensors import Tensors
from fedws.protocol.close_codes import CloseCode
from fedws.protocol.messages import Event, Json, Message, Order, Report
from fedws.security.tls import Tls

if TYPE_CHECKING:
    from fedws.network.body_transfer import Transfers
    from fedws.training.learning import Workspace

S = TypeVar("S")
A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)

# --------------------------------------------------------------------------- algorithms


class Strategy(Protocol[S]):
    """The coordinator's half of an algorithm: pure. Events in, orders out; no sockets, no clocks."""

    quorum: int
    """The fewest workers with which it can go on."""

    def start(self, model: Tensors, workers: Collection[str]) -> tuple[S, Sequence[Order]]:
        """Begin with the initial model and the workers that are there; others may join.

        A mapping of workers says how many samples each of them holds.
        """

    def resume(self, state: S, workers: Collection[str]) -> tuple[S, Sequence[Order]]:
        """Go on from a stored state with the workers that are there; its open orders will not be answered."""

    def react(self, state: S, event: Event) -> tuple[S, Sequence[Order]]:
        """Take one event; never computes more than a mean."""

    def model(self, state: S) -> Tensors:
        """The federated model as it stands."""

    def version(self, state: S) -> int:
        """How many rounds (or model versions) are complete."""

    def failure(self, state: S) -> str:
        """Why the run cannot go on; empty while it can."""

    def awaited(self, state: S) -> Sequence[str]:
        """The workers that are away and without whom it cannot go on; empty while enough are there."""

    def said(self, state: S) -> Sequence[str]:
        """What a person should read of the last reaction: log lines."""

    def record(self, state: S) -> Json:
        """What the record says of the last complete version, beside its number."""

    def worker_model(self, state: S, report: Report) -> Tensors | None:
        """A worker's own model; None for none, or if the report does not count. ``state`` is from before the report."""


@dataclass(frozen=True)
class Ask:
    """What a round-based algorithm asks of a worker; the round's helper adds ids and seed."""

    task: str
    settings: Json
    tensors: Tensors


class RoundAlgorithm(Protocol):
    """A round-based algorithm: :class:`fedws.scheduling.synchronous.Rounds` makes a :class:`Strategy` of it.

    Factory: ``(training: fedws.core.plan.Training, *, options)``, registered as ``strategy``.
    """

    def order(self, model: Tensors, worker: str, round: int) -> Ask:
        """What to ask of ``worker`` in ``round`` (counted from 1)."""

    def step(self, model: Tensors, aggregated: Tensors, round: int) -> Tensors:
        """The next model, from the aggregate of the reports of ``round``. Raises RejectedUpdate if they do not fit."""

    def worker_model(self, model: Tensors, report: Report) -> Tensors | None:
        """The worker's own model; ``model`` is the one its order carried. Raises RejectedUpdate if it does not fit."""


B = TypeVar("B")


class AsynchronousAlgorithm(Protocol[B]):
    """An algorithm without rounds: :class:`fedws.scheduling.asynchronous.Asynchronous` makes a :class:`Strategy` of it.

    Factory: ``(training: fedws.core.plan.Training, *, options)``, registered as ``strategy``.
    """

    @property
    def k(self) -> int:
        """How many reports make a version of the model."""

    def order(self, model: Tensors, worker: str, round: int) -> Ask:
        """What to ask of ``worker``; ``round`` counts from 1, by as many reports as there are workers."""

    def empty(self) -> B:
        """The buffer before the first report of a version: a part of the state, so plain data."""

    def add(self, model: Tensors, buffer: B, report: Report, staleness: int) -> B:
        """Take in a report, whose order is ``staleness`` versions old; may reuse the buffer. Raises RejectedUpdate."""

    def step(self, model: Tensors, buffer: B) -> Tensors:
        """The next version, from ``k`` reports. Raises RejectedUpdate if they do not fit."""

    def worker_model(self, model: Tensors, report: Report) -> Tensors | None:
        """The worker's own model; ``model`` is the newest. Raises RejectedUpdate if it does not fit."""


class Task(Protocol):
    """The worker's half: carries out one order on this worker's data. Raises TaskError when it cannot."""

    def __call__(self, order: Order, workspace: "Workspace") -> Report:
        """Carry out ``order``."""


class Aggregator(Protocol[A]):
    """Reports to one set of tensors, streaming, with its state explicit.

    Factory: ``(*, options)``, registered as ``aggregator``.
    """

    def empty(self) -> A:
        """The state before the first report."""

    def add(self, sum: A, report: Report) -> A:
        """Take in one report; may reuse its own accumulator. Raises RejectedUpdate when it does not fit."""

    def result(self, sum: A) -> Tensors:
        """The aggregate; at least one report must have been added."""


@dataclass(frozen=True)
class Candidate:
    """What a chooser knows of a worker that could be asked."""

    worker: str
    samples: int = 0
    """How many samples it holds; 0 where that is not known."""
    seconds: float = 0.0
    """How long its answers take, the newest counting most; 0 before the first."""
    waited: int = 0
    """Rounds since it was last asked, or since the run began."""


class Chooser(Protocol):
    """Who is asked in a round: the cohort. Factory: ``(*, options)``, registered as ``chooser``."""

    def size(self, workers: int) -> int:
        """How many make a cohort, of so many workers in the plan."""

    def rank(self, candidates: Sequence[Candidate], random: Random) -> Sequence[str]:
        """All candidates' names, whom to ask first in front. ``random`` is seeded by run seed and round."""


# --------------------------------------------------------------------------- learning


class Dataset(Protocol):
    """Samples with labels, as a torch map-style dataset: ``data[i]`` is ``(input, target)``.

    Factory: ``(root: Path, train: bool, *, options)``, registered as ``dataset``. Two attributes are used when they
    are there: ``batch(indices: Tensor) -> (inputs, targets)``, a faster way than one sample at a time, and ``targets``.
    Partitions by label and printed counts need class labels in it: a list, tuple, array or tensor with a whole number
    from 0 to 2**20 - 1, or a boolean, for each sample. Text must be numbered first, in the same way on every node."""

    def __len__(self) -> int:
        """How many samples."""

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """One sample: input and target."""


DatasetFactory = Callable[[Path, bool], Dataset]
ModelFactory = Callable[[], torch.nn.Module]
"""``(*, options) -> Module``, registered as ``model``."""
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Mean loss of a batch: ``(outputs, targets) -> scalar``. Factory ``(*, options)``, registered as ``loss``."""
OptimizerFactory = Callable[[Iterable[torch.nn.Parameter], float], torch.optim.Optimizer]
"""``(parameters, lr, *, options) -> Optimizer``, registered as ``optimizer``."""


class Partition(Protocol):
    """Splits samples among workers; factory and function in one, ``(targets, shares, *, options)``, as ``partition``.

    ``targets`` is int64 of shape [n]; all are 0 for a partition whose attribute ``by_label`` is False. The result is
    ``shares`` disjoint index arrays that together hold every sample once.
    """

    def __call__(self, targets: np.ndarray, shares: int) -> list[np.ndarray]:
        """Split."""


# --------------------------------------------------------------------------- transport


HANDSHAKE = 2**16
"""Largest message in bytes, until the other end has proved who it is."""


class Channel(Protocol):
    """One link, as whole messages. Any method raises LinkLost once the link is down."""

    peer: str
    """The node's id in the other end's certificate; empty where it has shown none."""
    address: str
    """Where the other end is, for a log; empty where the transport cannot tell."""
    sent: int
    """Bytes sent so far, with what the transport adds to a message; likewise those received."""
    received: int
    transfers: "Transfers"
    """How bodies travel; set by who knows of earlier links to the same peer."""

    @property
    def arriving(self) -> bool:
        """Whether a part of a message has come that is not whole."""

    async def send(self, message: Message) -> None:
        """Send one message; returns when it is handed to the transport."""

    async def receive(self) -> Message:
        """The next message. Raises ProtocolError, after which the link must be closed."""

    def admit(self) -> None:
        """The other end has proved who it is: messages up to ``Limits.message`` may come, in any time.

        Before, they are at most :data:`HANDSHAKE` bytes, and a link that was dialled from outside lives no longer than
        a sixth of ``silence``.
        """

    def protect(self, secret: bytes) -> None:
        """Both ends have ``secret`` now, 32 bytes of this handshake alone; keys for what follows may come of it."""

    async def close(self, reason: str = "", code: CloseCode = CloseCode.GIVEN_UP) -> None:
        """Close the link; the other end gets ``code``, and ``reason`` for people. Without a reason: DONE."""

    async def closed(self) -> None:
        """Wait until the link is down, whoever closed it."""


Handler = Callable[[Channel], Awaitable[None]]


@dataclass(frozen=True)
class Limits:
    """The bounds of a link."""

    message: int = 2**30
    """Largest message in bytes, header and body."""
    silence: float = 60.0
    """Seconds without a sign of life or progress after which the other end counts as lost."""
    heartbeat: float = 0.0
    """Seconds between the pings that keep an idle or busy link alive; 0: a third of ``silence``."""

    @property
    def beat(self) -> float:
        """The heartbeat that is meant, in seconds."""
        return self.heartbeat or self.silence / 3


class Transport(Protocol):
    """A way to carry messages, chosen by URL scheme. Registered as ``transport`` under that scheme."""

    private: bool
    """Whether its links stay within this process, where nobody has to be kept out."""
    shared: bool
    """Whether many nodes have one address, as a broker's."""

    def check(self, url: str, tls: Tls | None = None, *, seal: bool = False) -> None:
        """Raise UsageError unless the URL is an address here and goes with ``tls``; ``seal``: no carrier may read."""

    def connect(
        self, url: str, limits: Limits, node: str = "", tls: Tls | None = None, *, seal: bool = False
    ) -> Awaitable[Channel]:
        """Dial ``node`` once. Raises Unreachable, or UsageError when the URL is none.

        An encrypted one takes nobody but who shows a certificate of ``node``; if that is empty, of the URL's host."""

    def serve(
        self, url: str, handle: Handler, limits: Limits, tls: Tls | None = None, *, node: str = "", seal: bool = False
    ) -> AbstractAsyncContextManager[str]:
        """Serve ``node`` while the context lasts; gives its URL. Raises UsageError when it cannot."""
