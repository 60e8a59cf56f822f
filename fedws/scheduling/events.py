"""Events that a scheduler reacts to: an answer, or a worker that connected or disconnected."""

from dataclasses import dataclass

from fedws.protocol.messages import Answer


@dataclass(frozen=True, kw_only=True)
class WorkerConnected:
    """Event: a worker is linked and ready."""

    worker: str
    num_examples: int = 0
    """How many samples it says that it holds; 0 where that is not known."""


@dataclass(frozen=True, kw_only=True)
class WorkerDisconnected:
    """Event: a worker's link is gone. Its open requests have been answered with failures before."""

    worker: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ResponseTimed:
    """Event: how long a worker took from its last request to the answer; comes before that answer."""

    worker: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class RoundTimeout:
    """Event: the time for the model's next version is up, ``--round-timeout`` seconds after its first request or after

    the last RoundTimeout.
    """

    version: int
    """The complete versions when the time began; a RoundTimeout of an earlier version has no effect."""


@dataclass(frozen=True, kw_only=True)
class WorkerAvailable:
    """Event: the time has passed for which a worker refused requests, with the code ``retry_later``."""

    worker: str


Event = Answer | WorkerConnected | WorkerDisconnected | WorkerAvailable | ResponseTimed | RoundTimeout
