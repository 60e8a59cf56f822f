"""State that a scheduler keeps of one worker, and of one request that is not answered yet."""

from dataclasses import dataclass

from fedws.scheduling.lost_request_count import NO_LOSSES, LostRequestCount


@dataclass(frozen=True)
class PendingRequest:
    """A request that is not answered yet."""

    worker: str
    round: int
    version: int
    """Of the model that it carries."""
    task: str = ""


@dataclass(frozen=True)
class Participant:
    """What is known of one worker."""

    connected: bool = False
    last_requested_round: int = 0
    """The last round that it was asked in; for an asynchronous scheduler, how many requests it had."""
    attempt: int = 0
    """How often it was asked in that round."""
    last_accepted_round: int = 0
    """The last round of which its result was taken."""
    consecutive_failures: int = 0
    """Requests in a row that it refused, failed, or answered with what was rejected."""
    lost_request_count: LostRequestCount = NO_LOSSES
    """Losses in a row while it had the same request."""
    consecutive_postponements: int = 0
    """Times in a row that it refused the same request until later."""
    is_postponed: bool = False
    """Whether it gets no request until the time that it stated has passed."""
    exclusion_reason: str = ""
    """Why it is not asked any more."""
    num_examples: int = 0
    response_seconds: float = 0.0

    @property
    def next_request_number(self) -> int:
        """The number of its next request without rounds: the last one's until a result of that is accepted.

        So a request that is repeated has the same seed.
        """
        return self.last_requested_round + (self.last_requested_round <= self.last_accepted_round)
