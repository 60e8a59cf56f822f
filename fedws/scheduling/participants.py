"""Who is there, what each was asked, and whom the run does without: what all schedulers keep of their workers."""

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
"""Failed or rejected answers in a row that exclude a worker."""
MAX_CONSECUTIVE_POSTPONEMENTS = 3
"""Times in a row that a worker may put off the same request until later: then the request has failed too."""


@dataclass(frozen=True)
class Participants:
    """The workers of a run and their pending requests; every method gives a new one."""

    members: dict[str, Participant]
    pending_requests: dict[str, PendingRequest] = field(default_factory=dict)
    num_failures: int = 0
    """Requests that failed, for whatever reason, since they were last counted."""
    log_lines: tuple[str, ...] = ()
    """Log lines of the last event."""

    @classmethod
    def from_workers(cls, workers: Sequence[str], connected: Collection[str]) -> "Participants":
        """The workers of the plan, and those of them that are there; a mapping says how many samples each holds."""
        return cls({worker: _with_presence(Participant(), worker, connected) for worker in workers})

    def after_restart(self, connected: Collection[str], workers: Collection[str] | None = None) -> "Participants":
        """After a restart of the coordinator: no request is open, and those are there that are there now.

        ``workers`` are those of the plan now: others are removed, and new ones come last. None: the same as before.
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
        """Who can be asked: able, and with no pending request."""
        busy_workers = {pending_request.worker for pending_request in self.pending_requests.values()}
        return [worker for worker in self.available_workers() if worker not in busy_workers]

    def available_workers(self) -> list[str]:
        """Return the workers that are connected, not excluded, and not waiting until a stated time."""
        return [worker for worker in self.connected_workers() if not self.members[worker].is_postponed]

    def connected_workers(self) -> list[str]:
        """Return the workers that are connected and not excluded, also those waiting until a stated time."""
        return [worker for worker, member in self.members.items() if member.connected and not member.exclusion_reason]

    def disconnected_workers(self) -> list[str]:
        """Who is not there, and not excluded."""
        return [
            worker for worker, member in self.members.items() if not member.connected and not member.exclusion_reason
        ]

    def shortage_reason(self, min_results: int) -> str:
        """Why ``min_results`` workers will never be there; empty while they may come."""
        excluded = {
            worker: member.exclusion_reason for worker, member in self.members.items() if member.exclusion_reason
        }
        if len(self.members) - len(excluded) >= min_results:
            return ""
        reasons = "; ".join(f"{worker}: {reason}" for worker, reason in excluded.items())
        return f"too few workers are left for min_results {min_results}: {reasons}"

    def candidates(self, round_number: int) -> list[WorkerInfo]:
        """What a sampler is told of those who are idle before ``round_number``."""
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
        """Take an event; an answer is given with what was asked, or None if nobody waits for it: it is dropped.

        A failure counts as :meth:`record_failure` says.
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
            if event.kind == "lost":  # its WorkerDisconnected comes next; nobody is asked before
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
        """Ask a worker; ``run_seed`` is the run's. Asked again in a round, the request differs in its id alone.

        ``max_result_bytes`` is the size of its result's tensors in bytes, see
        :class:`fedws.protocol.messages.TaskRequest`.
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
        """Its result counts."""
        return self.replace_member(
            result.worker, last_accepted_round=result.round, num_examples=result.num_examples
        ).clear_failures(result.worker)

    def clear_failures(self, worker: str) -> "Participants":
        """A good result of the worker has arrived, which ends every row of failures."""
        return self.replace_member(
            worker, consecutive_failures=0, lost_request_count=NO_LOSSES, consecutive_postponements=0
        )

    def record_failure(self, failure: TaskFailure, task: str = "") -> "Participants":
        """Count a failed request. Three failures in a row exclude the worker; a permanent refusal does so at once.

        A loss and a refusal until later do not count unless they repeat: see :class:`LostRequestCount`,
        :data:`MAX_CONSECUTIVE_POSTPONEMENTS`.
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
            wait = (
                f"{worker} gets no request for {format_duration(failure.retry_after)}: it {_describe_failure(failure)}"
            )
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
        """The worker is not asked any more in this run."""
        return self.replace_member(worker, exclusion_reason=reason).add_log_line(f"{worker} is excluded: it {reason}")

    def has_failed(self, worker: str, round_number: int) -> bool:
        """Whether its last request was one of ``round_number``, and failed without being lost."""
        member = self.members[worker]
        return member.last_requested_round == round_number and member.consecutive_failures > 0

    def pop_num_failures(self) -> tuple["Participants", int]:
        """How many requests failed since this was last asked."""
        return replace(self, num_failures=0), self.num_failures

    def add_log_line(self, line: str) -> "Participants":
        """Add a log line."""
        return replace(self, log_lines=(*self.log_lines, line))

    def replace_member(self, worker: str, **changes: object) -> "Participants":
        """The same, with one member changed."""
        member = replace(self.members[worker], **changes)  # type: ignore[arg-type]
        return replace(self, members={**self.members, worker: member})


def find_exclusions(participants: Participants) -> Mapping[str, str]:
    """Who is excluded, and why."""
    return {
        worker: member.exclusion_reason for worker, member in participants.members.items() if member.exclusion_reason
    }


def _with_presence(member: Participant, worker: str, connected: Collection[str]) -> Participant:
    num_examples = connected.get(worker, 0) if isinstance(connected, Mapping) else 0
    without_failures = replace(member, lost_request_count=NO_LOSSES, consecutive_postponements=0, is_postponed=False)
    return replace(without_failures, connected=worker in connected, num_examples=num_examples or member.num_examples)


def _describe_failure(failure: TaskFailure) -> str:
    if failure.kind == "failed" and failure.code == "permanent":  # its request was not sent
        return f"cannot be asked: {failure.reason}"
    descriptions = {"refused": "refused the request", "rejected": "sent a result that was rejected"}
    return f"{descriptions.get(failure.kind, 'failed')}: {failure.reason}"
