"""The workers of a run with their pending requests and exclusions, which all schedulers keep in their state."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fedws.core.durations import format_duration
from fedws.core.seeds import request_seed
from fedws.core.untrusted_text import to_printable
from fedws.protocol.messages import TaskFailure, TaskRequest, TaskResult
from fedws.scheduling.base import TaskSpec, WorkerInfo
from fedws.scheduling.events import Event, ResponseTimed, WorkerAvailable, WorkerConnected, WorkerDisconnected
from fedws.scheduling.lost_request_count import NO_LOSSES
from fedws.scheduling.participant_state import Participant, PendingRequest

MAX_CONSECUTIVE_FAILURES = 3
"""Number of consecutive failed or rejected answers that exclude a worker."""
MAX_CONSECUTIVE_POSTPONEMENTS = 3
"""Number of consecutive postponements of the same request, of which the last also counts as a failure."""


@dataclass(frozen=True)
class Participants:
    """The workers of a run and their pending requests.

    An instance is immutable: a method that changes something returns a new one.
    """

    members: dict[str, Participant]
    pending_requests: dict[str, PendingRequest] = field(default_factory=dict)
    num_failures: int = 0
    """Number of requests that failed for any reason since the last ``pop_num_failures``."""
    log_lines: tuple[str, ...] = ()
    """Log lines about the last event."""

    @classmethod
    def from_workers(cls, workers: Sequence[str], connected: Collection[str]) -> "Participants":
        """Return the workers of the plan, of which those in ``connected`` are connected.

        The values of a mapping are the workers' numbers of samples.
        """
        return cls({worker: _with_presence(Participant(), worker, connected) for worker in workers})

    def after_restart(self, connected: Collection[str], workers: Collection[str] | None = None) -> "Participants":
        """Return the participants after a restart of the coordinator.

        No request is pending, and only the workers in ``connected`` are connected. ``workers`` are the workers of the
        current plan: others are removed, and new ones are added at the end. None keeps the workers unchanged.
        """
        members = {worker: member for worker, member in self.members.items() if workers is None or worker in workers}
        members |= {worker: Participant() for worker in workers or () if worker not in members}
        participants = Participants(
            {worker: _with_presence(member, worker, connected) for worker, member in members.items()}
        )
        for worker, reason in find_exclusions(participants).items():
            participants = participants.add_log_line(f"{worker} stays excluded: it {reason}")
        return participants

    def idle_workers(self) -> list[str]:
        """Return the available workers without a pending request."""
        busy_workers = {pending_request.worker for pending_request in self.pending_requests.values()}
        return [worker for worker in self.available_workers() if worker not in busy_workers]

    def available_workers(self) -> list[str]:
        """Return the workers that are connected, not excluded and not postponed."""
        return [worker for worker in self.connected_workers() if not self.members[worker].is_postponed]

    def connected_workers(self) -> list[str]:
        """Return the workers that are connected and not excluded, including postponed ones."""
        return [worker for worker, member in self.members.items() if member.connected and not member.exclusion_reason]

    def disconnected_workers(self) -> list[str]:
        """Return the workers that are neither connected nor excluded."""
        return [
            worker for worker, member in self.members.items() if not member.connected and not member.exclusion_reason
        ]

    def shortage_reason(self, min_results: int) -> str:
        """Return why ``min_results`` workers can never be connected, or an empty string while they can."""
        excluded = {
            worker: member.exclusion_reason for worker, member in self.members.items() if member.exclusion_reason
        }
        if len(self.members) - len(excluded) >= min_results:
            return ""
        reasons = "; ".join(f"{worker}: {reason}" for worker, reason in excluded.items())
        return f"too few workers are left for min_results {min_results}: {reasons}"

    def candidates(self, round_number: int) -> list[WorkerInfo]:
        """Return the data that a sampler gets about the workers that are idle before ``round_number``."""
        idle_members = {worker: self.members[worker] for worker in self.idle_workers()}
        return [
            WorkerInfo(
                name,
                member.num_examples,
                member.response_seconds,
                max(0, round_number - 1 - member.last_requested_round),
            )
            for name, member in idle_members.items()
        ]

    def apply(self, event: Event) -> tuple["Participants", PendingRequest | None]:
        """Return the participants after an event, and the pending request that the event answers.

        Other events give None instead of a request. So does an answer without a pending request, which is dropped.
        ``record_failure`` counts failures.
        """
        if isinstance(event, TaskResult | TaskFailure):
            pending_request = self.pending_requests.get(event.request_id)
            if pending_request is None or pending_request.worker != event.worker:
                return self, None
            remaining = {
                request_id: another
                for request_id, another in self.pending_requests.items()
                if request_id != event.request_id
            }
            participants = replace(self, pending_requests=remaining, log_lines=())
            if isinstance(event, TaskResult):
                return participants, pending_request
            if event.kind == "lost":  # its WorkerDisconnected follows; it must not get a request before
                participants = participants.replace_member(event.worker, connected=False)
            return participants.record_failure(event, pending_request.task), pending_request
        member = None if not hasattr(event, "worker") else self.members.get(event.worker)
        if member is None:
            return self, None
        participants = replace(self, log_lines=())
        if isinstance(event, WorkerConnected):
            participants = participants.replace_member(
                event.worker, connected=True, num_examples=event.num_examples or member.num_examples
            )
            return (
                participants
                if member.connected or member.exclusion_reason
                else participants.add_log_line(f"{event.worker} has joined")
            ), None
        if isinstance(event, WorkerDisconnected):
            participants = participants.replace_member(event.worker, connected=False)
            left = f"{event.worker} has left: {event.reason}"
            return (participants if member.exclusion_reason else participants.add_log_line(left)), None
        if isinstance(event, WorkerAvailable):
            return participants.replace_member(event.worker, is_postponed=False), None
        if isinstance(event, ResponseTimed):
            seconds = (member.response_seconds + event.seconds) / 2 if member.response_seconds else event.seconds
            return participants.replace_member(event.worker, response_seconds=seconds), None
        return self, None

    def create_request(
        self,
        worker: str,
        round_number: int,
        version: int,
        run_seed: int,
        task_spec: TaskSpec,
        max_result_bytes: int | None = None,
    ) -> tuple["Participants", TaskRequest]:
        """Return the participants with a new request to ``worker``, and the request.

        A repeated request of the same round differs only in its id. ``run_seed`` is the seed of the run.
        ``max_result_bytes`` is the size of the result's tensors in bytes; see
        ``fedws.protocol.messages.TaskRequest``.
        """
        member = self.members[worker]
        attempt = member.attempt + 1 if member.last_requested_round == round_number else 1
        request = TaskRequest(
            request_id=f"{round_number}/{worker}" if attempt == 1 else f"{round_number}/{worker}/{attempt}",
            worker=worker,
            round=round_number,
            task=task_spec.task,
            state_round=member.last_accepted_round,
            seed=request_seed(run_seed, worker, round_number),
            settings=task_spec.settings,
            max_result_bytes=max_result_bytes,
            tensors=task_spec.tensors,
        )
        new = (
            {}
            if member.last_requested_round == round_number
            else {"lost_request_count": NO_LOSSES, "consecutive_postponements": 0}
        )
        participants = self.replace_member(worker, last_requested_round=round_number, attempt=attempt, **new)
        return replace(
            participants,
            pending_requests={
                **self.pending_requests,
                request.request_id: PendingRequest(worker, round_number, version, task_spec.task),
            },
        ), request

    def accept(self, result: TaskResult) -> "Participants":
        """Return the participants after an accepted result."""
        return self.replace_member(
            result.worker, last_accepted_round=result.round, num_examples=result.num_examples
        ).clear_failures(result.worker)

    def clear_failures(self, worker: str) -> "Participants":
        """Return the participants after a valid result of ``worker``, which resets all its counts of failures."""
        return self.replace_member(
            worker, consecutive_failures=0, lost_request_count=NO_LOSSES, consecutive_postponements=0
        )

    def record_failure(self, failure: TaskFailure, task: str = "") -> "Participants":
        """Count a failed request, and exclude the worker after three consecutive failures.

        A permanent refusal excludes the worker at once. A loss or a postponement counts as a failure only after several
        in a row; see ``fedws.scheduling.lost_request_count.LostRequestCount`` and
        ``MAX_CONSECUTIVE_POSTPONEMENTS``.
        """
        worker, participants = failure.worker, replace(self, num_failures=self.num_failures + 1)
        member = participants.members[worker]
        if failure.kind == "lost":
            losses = member.lost_request_count.add(failure)
            reason = losses.failure_reason(to_printable(task, 64))
            participants = participants.replace_member(worker, lost_request_count=NO_LOSSES if reason else losses)
            if not reason:
                return participants
            failure = replace(failure, kind="failed", reason=reason)
        if failure.code == "retry_later":
            postponed = (member.consecutive_postponements + 1) % MAX_CONSECUTIVE_POSTPONEMENTS
            wait = f"{worker} is postponed for {format_duration(failure.retry_after)}: it {_describe_failure(failure)}"
            participants = participants.replace_member(worker, is_postponed=True, consecutive_postponements=postponed)
            if postponed:
                return participants.add_log_line(wait)
        if failure.code == "permanent":
            return participants.exclude(worker, _describe_failure(failure))
        failures_in_row = member.consecutive_failures + 1
        participants = participants.replace_member(worker, consecutive_failures=failures_in_row)
        if failures_in_row < MAX_CONSECUTIVE_FAILURES:
            return participants.add_log_line(f"{worker} {_describe_failure(failure)}")
        return participants.exclude(worker, f"{_describe_failure(failure)}, three times in a row")

    def exclude(self, worker: str, reason: str) -> "Participants":
        """Exclude the worker for the rest of the run."""
        return self.replace_member(worker, exclusion_reason=reason).add_log_line(f"{worker} is excluded: it {reason}")

    def has_failed(self, worker: str, round_number: int) -> bool:
        """Return True if the worker's last request was from ``round_number`` and failed, unless by a loss."""
        member = self.members[worker]
        return member.last_requested_round == round_number and member.consecutive_failures > 0

    def pop_num_failures(self) -> tuple["Participants", int]:
        """Reset the number of failed requests, and return the participants and that number."""
        return replace(self, num_failures=0), self.num_failures

    def add_log_line(self, line: str) -> "Participants":
        """Return the participants with one more log line."""
        return replace(self, log_lines=(*self.log_lines, line))

    def replace_member(self, worker: str, **changes: object) -> "Participants":
        """Return the participants with ``changes`` to the fields of one member."""
        member = replace(self.members[worker], **changes)  # type: ignore[arg-type]
        return replace(self, members={**self.members, worker: member})


def find_exclusions(participants: Participants) -> Mapping[str, str]:
    """Return the excluded workers, each with the reason."""
    return {
        worker: member.exclusion_reason for worker, member in participants.members.items() if member.exclusion_reason
    }


def _with_presence(member: Participant, worker: str, connected: Collection[str]) -> Participant:
    num_examples = connected.get(worker, 0) if isinstance(connected, Mapping) else 0
    without_failures = replace(member, lost_request_count=NO_LOSSES, consecutive_postponements=0, is_postponed=False)
    return replace(without_failures, connected=worker in connected, num_examples=num_examples or member.num_examples)


def _describe_failure(failure: TaskFailure) -> str:
    if failure.kind == "failed" and failure.code == "permanent":  # the request was not sent
        return f"cannot receive the request: {failure.reason}"
    descriptions = {"refused": "refused the request", "rejected": "sent a result that was rejected"}
    return f"{descriptions.get(failure.kind, 'failed')}: {failure.reason}"
