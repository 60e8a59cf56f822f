"""Events to which a scheduler reacts, such as an answer or a connected worker."""

from dataclasses import dataclass

from fedws.protocol.messages import Answer


@dataclass(frozen=True, kw_only=True)
class WorkerConnected:
    """The event that a worker has connected and is ready."""

    worker: str
    num_examples: int = 0
    """Number of samples that the worker declares; 0 if it is unknown."""


@dataclass(frozen=True, kw_only=True)
class WorkerDisconnected:
    """The event that the link to a worker is lost.

    Failures for its pending requests precede this event.
    """

    worker: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ResponseTimed:
    """The event that the time from a worker's last request to its answer was measured.

    It precedes the answer.
    """

    worker: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class RoundTimeout:
    """The event that the deadline for the model's next version has passed.

    The deadline is ``--round-timeout`` seconds after the first request for that version or after the last RoundTimeout.
    """

    version: int
    """Number of complete versions when the time began; a RoundTimeout of an earlier version has no effect."""


@dataclass(frozen=True, kw_only=True)
class WorkerAvailable:
    """The event that the time has passed for which a worker refused requests with the code ``retry_later``."""

    worker: str


Event = Answer | WorkerConnected | WorkerDisconnected | WorkerAvailable | ResponseTimed | RoundTimeout
