"""A scheduler for algorithms with rounds, which collects the results of a round."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Generic, TypeVar

from fedws.core.errors import RejectedUpdate
from fedws.core.tensors import Tensors
from fedws.protocol.messages import Json, TaskRequest, TaskResult, build_failure
from fedws.scheduling.base import RoundAlgorithm, Sampler
from fedws.scheduling.events import Event, RoundTimeout
from fedws.scheduling.participants import Participants, find_exclusions
from fedws.scheduling.result_checks import apply_server_update, find_result_problem
from fedws.scheduling.result_size import compute_result_size
from fedws.scheduling.schedule_config import ScheduleConfig
from fedws.updates import metrics
from fedws.updates.base import Aggregator

A = TypeVar("A")


@dataclass(frozen=True)
class SynchronousState(Generic[A]):
    """The state of a run with rounds."""

    model: Tensors
    participants: Participants
    round: int
    """Number of the round in progress, from 1; after the last round, one more than its number."""
    cohort: tuple[str, ...]
    """Workers that are selected for this round; empty while too few are idle to begin it."""
    target_results: int
    """Number of results that close the round at once; it does not include over-selected workers."""
    accepted_workers: tuple[str, ...]
    accumulator: A
    result_metrics: tuple[metrics.WeightedMetrics, ...] = ()
    """Metrics of each accepted result, with their weight."""
    timed_out: bool = False
    """True if the round timeout has passed, after which ``min_results`` results close the round."""
    overdue_request_ids: tuple[str, ...] = ()
    """Ids of requests that were pending at the round timeout; their results count, but the round does not wait."""
    num_late: int = 0
    """Number of results since the last record that were dropped because their round was closed."""
    record: Json = field(default_factory=dict)
    """Fields of the last complete round's record."""
    failure: str = ""
    """Reason why the run cannot continue, or an empty string."""


class SynchronousScheduler(Generic[A]):
    """A ``fedws.scheduling.base.Scheduler`` for a ``fedws.scheduling.base.RoundAlgorithm``.

    A round closes when it has as many results as the sampler's cohort size. With at least ``min_results``, it also
    closes when every request is answered or the round timeout has passed. With fewer results, the missing workers get
    another request as soon as possible. Results are aggregated as they arrive. A result of a closed round is dropped
    and counted.
    """

    def __init__(
        self, algorithm: RoundAlgorithm, aggregator: Aggregator[A], sampler: Sampler, config: ScheduleConfig
    ) -> None:
        self._algorithm = algorithm
        self._aggregator = aggregator
        self._sampler = sampler
        self._config = config
        self.min_results = config.min_results

    # ------------------------------------------------------------------ methods of a Scheduler

    def start(self, model: Tensors, workers: Collection[str]) -> tuple[SynchronousState[A], Sequence[TaskRequest]]:
        """Return the initial state and the requests to the first cohort."""
        participants = Participants.from_workers(self._config.workers, workers)
        return self._start_round(SynchronousState(model, participants, 1, (), 0, (), self._aggregator.init()))

    def resume(
        self, state: SynchronousState[A], workers: Collection[str]
    ) -> tuple[SynchronousState[A], Sequence[TaskRequest]]:
        """Return the state and the requests with which the interrupted round starts again.

        If the workers of the plan have changed, its cohort is selected again.
        """
        participants = state.participants.after_restart(workers, self._config.workers)
        if participants.members.keys() != state.participants.members.keys():
            state = replace(state, cohort=())
        if state.failure or state.round > self._config.rounds:
            return replace(state, participants=participants), ()
        if state.cohort:
            participants = participants.add_log_line(self._round_title(state.round))
        state = replace(state, participants=participants, timed_out=False, overdue_request_ids=())
        state = replace(state, accepted_workers=(), accumulator=self._aggregator.init(), result_metrics=())
        return self._advance(state)

    def react(self, state: SynchronousState[A], event: Event) -> tuple[SynchronousState[A], Sequence[TaskRequest]]:
        """Return the state and the requests after an event, which may close the round and begin the next."""
        if state.failure or state.round > self._config.rounds:
            return state, ()
        if isinstance(event, RoundTimeout):
            return self._handle_timeout(state) if event.version == state.round - 1 else (state, ())
        participants, pending_request = state.participants.apply(event)
        if participants is state.participants:
            return state, ()
        state = replace(state, participants=participants)
        if isinstance(event, TaskResult) and pending_request is not None:
            state = (
                self._drop_late_result(state, event)
                if pending_request.round < state.round
                else self._accept_result(state, event)
            )
        return self._advance(state)

    def model(self, state: SynchronousState[A]) -> Tensors:
        """Return the model after the last complete round."""
        return state.model

    def version(self, state: SynchronousState[A]) -> int:
        """Return the number of complete rounds."""
        return state.round - 1

    def failure(self, state: SynchronousState[A]) -> str:
        """Return why the run cannot continue, or an empty string if it can."""
        return state.failure

    def waiting_for(self, state: SynchronousState[A]) -> Sequence[str]:
        """Return the disconnected workers while accepted and connected ones are fewer than ``min_results``."""
        if state.failure or state.round > self._config.rounds:
            return ()
        disconnected = state.participants.disconnected_workers()
        can = [worker for worker in state.participants.connected_workers() if worker not in state.accepted_workers]
        if len(state.accepted_workers) + len(can) >= self.min_results:
            return ()
        return [worker for worker in disconnected if worker not in state.accepted_workers]

    def log_lines(self, state: SynchronousState[A]) -> Sequence[str]:
        """Return the log lines about the last event."""
        return state.participants.log_lines

    def record(self, state: SynchronousState[A]) -> Json:
        """Return the record of the last complete round, with its cohort and the number of late results."""
        return state.record

    def worker_model(self, state: SynchronousState[A], result: TaskResult) -> Tensors | None:
        """Return the worker's own model of this round, or None if it has none or its result does not count."""
        pending_request = state.participants.pending_requests.get(result.request_id)
        if (
            pending_request is None
            or pending_request.round != state.round
            or find_result_problem(self._algorithm, state.model, result)
        ):
            return None
        return self._algorithm.worker_model(state.model, result)

    # ------------------------------------------------------------------ steps of a round

    def _start_round(self, state: SynchronousState[A]) -> tuple[SynchronousState[A], Sequence[TaskRequest]]:
        """Select the next cohort as soon as ``min_results`` workers are idle."""
        idle = len(state.participants.idle_workers())
        if idle < self.min_results:
            return state, ()
        size = min(self._sampler.cohort_size(len(self._config.workers)), idle)
        num_selected = size + math.ceil(round(self._config.over_selection * size, 9))  # 1.1 * 50 exceeds 55
        cohort = tuple(self._rank_workers(state))[:num_selected]
        participants = state.participants.add_log_line(self._round_title(state.round))
        return self._create_requests(
            replace(state, participants=participants, cohort=cohort, target_results=size), cohort
        )

    def _rank_workers(self, state: SynchronousState[A]) -> Sequence[str]:
        random = Random(f"{self._config.seed}/{state.round}")
        return self._sampler.rank(state.participants.candidates(state.round), random)

    def _accept_result(self, state: SynchronousState[A], result: TaskResult) -> SynchronousState[A]:
        """Accept or reject a result of this round."""
        problem = find_result_problem(self._algorithm, state.model, result)
        try:
            accumulator = state.accumulator if problem else self._aggregator.accumulate(state.accumulator, result)
        except RejectedUpdate as error:
            problem = str(error)
        if problem:
            return replace(
                state, participants=state.participants.record_failure(build_failure(result, "rejected", problem))
            )
        state = replace(state, result_metrics=(*state.result_metrics, metrics.weigh_metrics(result)))
        accepted_workers = (*state.accepted_workers, result.worker)
        return replace(
            state,
            accumulator=accumulator,
            accepted_workers=accepted_workers,
            participants=state.participants.accept(result),
        )

    def _drop_late_result(self, state: SynchronousState[A], result: TaskResult) -> SynchronousState[A]:
        """Count a result of a closed round.

        A valid result still resets the worker's counts of failures.
        """
        good = not find_result_problem(self._algorithm, state.model, result)
        participants = state.participants.clear_failures(result.worker) if good else state.participants
        return replace(state, participants=participants, num_late=state.num_late + 1)

    def _advance(self, state: SynchronousState[A]) -> tuple[SynchronousState[A], Sequence[TaskRequest]]:
        """Close the round if possible, or repeat requests where necessary and possible."""
        shortage = state.participants.shortage_reason(self.min_results)
        if shortage:
            return replace(state, failure=f"round {state.round}: {shortage}"), ()
        if not state.cohort:
            return self._start_round(state)
        request_ids = [
            request_id
            for request_id, pending_request in state.participants.pending_requests.items()
            if pending_request.round == state.round
        ]
        on_time_ids = [request_id for request_id in request_ids if request_id not in state.overdue_request_ids]
        has_enough = len(state.accepted_workers) >= self.min_results
        if len(state.accepted_workers) >= state.target_results or (has_enough and (state.timed_out or not on_time_ids)):
            return self._close_round(state)
        if len(state.accepted_workers) + len(on_time_ids) >= self.min_results:
            return state, ()
        state = self._extend_cohort(state)
        idle = set(state.participants.idle_workers())
        if on_time_ids:  # a worker that has just refused or failed gets no new request while others may still answer
            idle -= {worker for worker in idle if state.participants.has_failed(worker, state.round)}
        missing = [worker for worker in state.cohort if worker in idle and worker not in state.accepted_workers]
        return self._create_requests(state, missing)

    def _extend_cohort(self, state: SynchronousState[A]) -> SynchronousState[A]:
        """Replace disconnected, excluded and overdue workers if fewer than ``min_results`` others remain."""
        overdue_workers = {
            pending_request.worker
            for request_id, pending_request in state.participants.pending_requests.items()
            if request_id in state.overdue_request_ids
        }
        available = set(state.participants.available_workers()) - overdue_workers | set(state.accepted_workers)
        spare_workers = [worker for worker in self._rank_workers(state) if worker not in state.cohort]
        shortage = self.min_results - sum(worker in available for worker in state.cohort)
        return replace(state, cohort=(*state.cohort, *spare_workers[: max(0, shortage)]))

    def _handle_timeout(self, state: SynchronousState[A]) -> tuple[SynchronousState[A], Sequence[TaskRequest]]:
        if not state.cohort:
            return state, ()
        missing = [worker for worker in state.cohort if worker not in state.accepted_workers]
        summary = (
            f"Round {state.round}: {len(state.accepted_workers)} of {len(state.cohort)} results at the round timeout"
        )
        participants = replace(state.participants, log_lines=(f"{summary}; missing: {', '.join(missing)}",))
        overdue = tuple(
            request_id
            for request_id, pending_request in participants.pending_requests.items()
            if pending_request.round == state.round
        )
        return self._advance(replace(state, participants=participants, timed_out=True, overdue_request_ids=overdue))

    def _create_requests(
        self, state: SynchronousState[A], workers: Collection[str]
    ) -> tuple[SynchronousState[A], Sequence[TaskRequest]]:
        requests, participants = [], state.participants
        max_result_bytes = compute_result_size(self._algorithm, state.model) if workers else 0
        for worker in workers:
            task_spec = self._algorithm.configure(state.model, worker, state.round)
            participants, request = participants.create_request(
                worker, state.round, state.round - 1, self._config.seed, task_spec, max_result_bytes
            )
            requests.append(request)
        return replace(state, participants=participants), requests

    def _close_round(self, state: SynchronousState[A]) -> tuple[SynchronousState[A], Sequence[TaskRequest]]:
        """Compute the next model, and begin the next round."""
        aggregated = self._aggregator.finalize(state.accumulator)
        model, problem = apply_server_update(
            lambda: self._algorithm.server_update(state.model, aggregated, state.round), state.model
        )
        if problem:
            return replace(state, failure=f"round {state.round}: the results do not fit the model: {problem}"), ()
        missing = [worker for worker in state.cohort if worker not in state.accepted_workers]
        participants, num_failures = state.participants.pop_num_failures()
        record: Json = {"cohort": list(state.cohort), "missing_workers": missing}
        record |= {"num_results": len(state.accepted_workers), "num_failures": num_failures, "num_late": state.num_late}
        if means := metrics.average_metrics(state.result_metrics):
            record["metrics"] = means
        exclusions = find_exclusions(participants)
        state = replace(
            state,
            model=model,
            participants=participants,
            round=state.round + 1,
            cohort=(),
            accepted_workers=(),
            accumulator=self._aggregator.init(),
            result_metrics=(),
            timed_out=False,
            overdue_request_ids=(),
            num_late=0,
            record={**record, "excluded": exclusions} if exclusions else record,
        )
        return self._start_round(state) if state.round <= self._config.rounds else (state, ())

    def _round_title(self, round_number: int) -> str:
        return f"Training round {round_number}/{self._config.rounds}"
