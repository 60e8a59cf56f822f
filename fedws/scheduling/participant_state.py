"""State of one worker, and of one pending request, in a scheduler."""

from dataclasses import dataclass

from fedws.scheduling.lost_request_count import NO_LOSSES, LostRequestCount


@dataclass(frozen=True)
class PendingRequest:
    """A request that is not answered yet."""

    worker: str
    round: int
    version: int
    """Version of the model in the request."""
    task: str = ""


@dataclass(frozen=True)
class Participant:
    """The state of one worker."""

    connected: bool = False
    last_requested_round: int = 0
    """Round of the worker's last request; in an asynchronous run, the number of that request."""
    attempt: int = 0
    """Number of requests to the worker in that round."""
    last_accepted_round: int = 0
    """Last round with an accepted result of the worker."""
    consecutive_failures: int = 0
    """Number of consecutive requests that the worker refused, failed, or answered with a rejected result."""
    lost_request_count: LostRequestCount = NO_LOSSES
    """Number of consecutive losses of the worker while it had the same request."""
    consecutive_postponements: int = 0
    """Number of consecutive times that the worker postponed the same request."""
    is_postponed: bool = False
    """True if the worker gets no request until the time that it stated has passed."""
    exclusion_reason: str = ""
    """Reason why the worker is excluded, or an empty string."""
    num_examples: int = 0
    response_seconds: float = 0.0

    @property
    def next_request_number(self) -> int:
        """Number of the worker's next request in an asynchronous run.

        It stays the same until a result of the last request is accepted, so a repeated request has the same seed.
        """
        return self.last_requested_round + (self.last_requested_round <= self.last_accepted_round)
