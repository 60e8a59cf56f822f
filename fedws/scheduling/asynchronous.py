"""A scheduler for asynchronous algorithms, which uses each result as it arrives."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from fedws.core.errors import RejectedUpdate
from fedws.core.tensors import Tensors
from fedws.protocol.messages import Json, TaskRequest, TaskResult, build_failure
from fedws.scheduling.base import AsynchronousAlgorithm
from fedws.scheduling.events import Event, RoundTimeout
from fedws.scheduling.participant_state import PendingRequest
from fedws.scheduling.participants import MAX_CONSECUTIVE_FAILURES, Participants, find_exclusions
from fedws.scheduling.result_checks import apply_server_update, find_result_problem
from fedws.scheduling.result_size import compute_result_size
from fedws.scheduling.schedule_config import ScheduleConfig
from fedws.updates import metrics

B = TypeVar("B")


@dataclass(frozen=True)
class AsynchronousState(Generic[B]):
    """The state of an asynchronous run."""

    model: Tensors
    version: int
    participants: Participants
    buffer: B
    updates: tuple[Json, ...] = ()
    """Worker and staleness of each result in the buffer."""
    result_metrics: tuple[metrics.WeightedMetrics, ...] = ()
    """Metrics of each result in the buffer, with their weight."""
    num_results: int = 0
    """Number of results accepted since the run began."""
    consecutive_failed_updates: int = 0
    """Number of consecutive times that the buffer was full but no version could be made."""
    record: Json = field(default_factory=dict)
    """Fields of the last version's record."""
    failure: str = ""
    """Reason why the run cannot continue, or an empty string."""


def is_asynchronous(algorithm: object) -> bool:
    """Return True if an algorithm needs an ``AsynchronousScheduler``."""
    return hasattr(algorithm, "accumulate")


class AsynchronousScheduler(Generic[B]):
    """A ``fedws.scheduling.base.Scheduler`` for a ``fedws.scheduling.base.AsynchronousAlgorithm``.

    Workers do not wait for each other: a worker gets its next request, with the newest model, as soon as its answer
    arrives. The staleness of a result is the number of versions made since its request.
    """

    def __init__(self, algorithm: AsynchronousAlgorithm[B], config: ScheduleConfig) -> None:
        self._algorithm = algorithm
        self._config = config
        self.min_results = config.min_results

    def start(self, model: Tensors, workers: Collection[str]) -> tuple[AsynchronousState[B], Sequence[TaskRequest]]:
        """Return the initial state, with a request to each connected worker."""
        participants = Participants.from_workers(self._config.workers, workers)
        return self._create_requests(AsynchronousState(model, 0, participants, self._algorithm.init()))

    def resume(
        self, state: AsynchronousState[B], workers: Collection[str]
    ) -> tuple[AsynchronousState[B], Sequence[TaskRequest]]:
        """Return the state after a restart, with a request to each connected worker in place of the lost one."""
        return self._create_requests(
            replace(state, participants=state.participants.after_restart(workers, self._config.workers))
        )

    def react(self, state: AsynchronousState[B], event: Event) -> tuple[AsynchronousState[B], Sequence[TaskRequest]]:
        """Return the state and the requests after an event; a result may complete the next version of the model."""
        if self._is_finished(state) or isinstance(event, RoundTimeout):
            return state, ()
        participants, pending_request = state.participants.apply(event)
        if participants is state.participants:
            return state, ()
        state = replace(state, participants=participants)
        if isinstance(event, TaskResult) and pending_request is not None:
            state = self._accept_result(state, event, pending_request)
        shortage = state.participants.shortage_reason(self.min_results)
        if shortage and not state.failure:
            state = replace(state, failure=f"version {state.version + 1}: {shortage}")
        return self._create_requests(state)

    def model(self, state: AsynchronousState[B]) -> Tensors:
        """Return the newest version of the model."""
        return state.model

    def version(self, state: AsynchronousState[B]) -> int:
        """Return the number of versions made."""
        return state.version

    def failure(self, state: AsynchronousState[B]) -> str:
        """Return why the run cannot continue, or an empty string if it can."""
        return state.failure

    def waiting_for(self, state: AsynchronousState[B]) -> Sequence[str]:
        """Return the disconnected workers while fewer than ``min_results`` are connected."""
        has_enough = self._is_finished(state) or len(state.participants.connected_workers()) >= self.min_results
        return () if has_enough else state.participants.disconnected_workers()

    def log_lines(self, state: AsynchronousState[B]) -> Sequence[str]:
        """Return the log lines about the last event."""
        return state.participants.log_lines

    def record(self, state: AsynchronousState[B]) -> Json:
        """Return the record of the last version, with the worker and the staleness of each of its results."""
        return state.record

    def worker_model(self, state: AsynchronousState[B], result: TaskResult) -> Tensors | None:
        """Return the worker's own model, or None if it has none or its result does not count."""
        if result.request_id not in state.participants.pending_requests or find_result_problem(
            self._algorithm, state.model, result
        ):
            return None
        return self._algorithm.worker_model(state.model, result)

    def _accept_result(
        self, state: AsynchronousState[B], result: TaskResult, pending_request: PendingRequest
    ) -> AsynchronousState[B]:
        """Add a result to the buffer, and make a version if the buffer is full."""
        staleness = state.version - pending_request.version
        problem = find_result_problem(self._algorithm, state.model, result)
        try:
            buffer = (
                state.buffer if problem else self._algorithm.accumulate(state.model, state.buffer, result, staleness)
            )
        except RejectedUpdate as error:
            problem = str(error)
        if problem:
            return replace(
                state, participants=state.participants.record_failure(build_failure(result, "rejected", problem))
            )
        updates = (*state.updates, {"worker": result.worker, "staleness": staleness})
        numbers = (*state.result_metrics, metrics.weigh_metrics(result))
        new = replace(state, buffer=buffer, updates=updates, result_metrics=numbers, num_results=state.num_results + 1)
        accepted = replace(new, participants=state.participants.accept(result))
        if len(updates) < self._algorithm.buffer_size:
            return accepted
        next_state = self._make_version(accepted)
        if not isinstance(next_state, str):
            return next_state
        # The sum of finite results may not be finite. The buffer is then dropped, and the last result is rejected.
        participants = state.participants.record_failure(build_failure(result, "rejected", next_state))
        failed_updates = state.consecutive_failed_updates + 1
        # This does not count as a failure of the other workers in the buffer.
        is_hopeless = failed_updates >= MAX_CONSECUTIVE_FAILURES * len(self._config.workers)
        reason = f"version {state.version + 1}: the results do not fit the model: {next_state}" if is_hopeless else ""
        new = replace(new, buffer=self._algorithm.init(), updates=(), result_metrics=())
        return replace(new, participants=participants, consecutive_failed_updates=failed_updates, failure=reason)

    def _make_version(self, state: AsynchronousState[B]) -> AsynchronousState[B] | str:
        """Return the state with the next version, or the reason why that version cannot be made."""
        model, problem = apply_server_update(
            lambda: self._algorithm.server_update(state.model, state.buffer), state.model
        )
        if problem:
            return problem
        participants, num_failures = state.participants.pop_num_failures()
        record: Json = {"version": state.version + 1, "updates": list(state.updates)}
        record |= {"num_results": len(state.updates), "num_failures": num_failures}
        if means := metrics.average_metrics(state.result_metrics):
            record["metrics"] = means
        exclusions = find_exclusions(participants)
        return replace(
            state,
            model=model,
            version=state.version + 1,
            participants=participants,
            buffer=self._algorithm.init(),
            updates=(),
            result_metrics=(),
            consecutive_failed_updates=0,
            record={**record, "excluded": exclusions} if exclusions else record,
        )

    def _create_requests(self, state: AsynchronousState[B]) -> tuple[AsynchronousState[B], Sequence[TaskRequest]]:
        """Create a request for every idle worker while at least ``min_results`` are connected."""
        if self._is_finished(state) or len(state.participants.connected_workers()) < self.min_results:
            return state, ()
        requests, participants = [], state.participants
        round_number, idle = 1 + state.num_results // len(self._config.workers), participants.idle_workers()
        max_result_bytes = compute_result_size(self._algorithm, state.model) if idle else 0
        for worker in idle:
            member = participants.members[worker]
            number = member.next_request_number
            task_spec = self._algorithm.configure(state.model, worker, round_number)
            participants, request = participants.create_request(
                worker, number, state.version, self._config.seed, task_spec, max_result_bytes
            )
            requests.append(request)
        return replace(state, participants=participants), requests

    def _is_finished(self, state: AsynchronousState[B]) -> bool:
        return bool(state.failure) or state.version >= self._config.rounds
