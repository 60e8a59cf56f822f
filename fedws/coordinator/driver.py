"""The loop that runs a scheduler over the links to the workers.

It sends requests and receives answers. For each model version it writes a record and a checkpoint.
"""

import asyncio
import math
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Generic, TypeVar

from fedws.coordinator.clock import monotonic_seconds
from fedws.coordinator.evaluation_queue import EvaluationQueue
from fedws.coordinator.one_time_log import OneTimeLog
from fedws.coordinator.worker_links import WorkerLinks
from fedws.core.durations import format_duration
from fedws.core.errors import RejectedUpdate, RunFailed
from fedws.core.plan import Plan
from fedws.core.tensors import Tensors
from fedws.network.liveness import CHECKS_PER_TIMEOUT
from fedws.protocol.messages import DEFAULT_COORDINATOR_ID, TaskRequest, TaskResult, build_failure
from fedws.recording.checkpoint import Checkpoint, Checkpoints
from fedws.recording.evaluation_lines import FEDERATED_MODEL
from fedws.recording.run_log import RunLog, log
from fedws.scheduling.base import Scheduler
from fedws.scheduling.events import Event, RoundTimeout, WorkerConnected
from fedws.split_learning.feature_store import FeatureStore
from fedws.split_learning.scheduler import CollectThenTrainScheduler
from fedws.split_learning.scheduler_state import CollectThenTrainState

S = TypeVar("S")
T = TypeVar("T")


class Driver(Generic[S]):
    """The driver of one run: it runs ``scheduler`` until the last model version or until the run fails."""

    def __init__(
        self,
        plan: Plan,
        scheduler: Scheduler[S],
        links: WorkerLinks,
        evaluation_queue: EvaluationQueue | None,
        run_log: RunLog,
        checkpoints: Checkpoints,
        one_time_log: OneTimeLog,
        feature_store: FeatureStore | None = None,
    ) -> None:
        self._plan = plan
        self._scheduler = scheduler
        self._links = links
        self._evaluation_queue = evaluation_queue
        self._run_log = run_log
        self._checkpoints = checkpoints
        self._one_time_log = one_time_log
        self._feature_store = feature_store
        self._evaluated_workers = set(list(links.links)[: plan.evaluate_worker_models])
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="scheduler")
        self._version_start = 0.0
        self._bytes_at_start = (0, 0)
        self._round_deadline = math.inf
        self._min_results_deadline = math.inf
        """Time at which the run ends for lack of ``min_results`` workers, by the event loop's clock."""
        self._next_reminder = math.inf
        """Time of the next log line about missing answers, by the event loop's clock."""
        self.version = 0
        self.model: Tensors | None = None
        """Newest version of the model; None before the first."""

    async def run(
        self, initial_model: Tensors, connected: Collection[str], checkpoint: Checkpoint | None = None
    ) -> Tensors:
        """Run to the last version, from ``checkpoint`` or from the start, and return the model.

        Raises RunFailed with the scheduler's reason, or with the names of the missing workers.
        """
        try:
            self._start_version()
            lines: Sequence[str] = ()
            if checkpoint is None:
                state, requests = await self._run_in_thread(self._scheduler.start, initial_model, connected)
                # before the checkpoint, so that a resumed run does not log it twice
                self._one_time_log.log_workload(requests, self._plan)
                await self._save_checkpoint(state)
            else:
                self.version = self._scheduler.version(checkpoint.state)
                self.model = self._scheduler.model(checkpoint.state) if self.version else None
                if not checkpoint.extra.get("logged"):
                    # The resumed run log ends at the checkpoint, and these lines were logged after it.
                    lines = self._scheduler.log_lines(checkpoint.state)
                state = checkpoint.state
                if self._feature_store is not None and isinstance(state, CollectThenTrainState):
                    state = state.with_stored_chunks(self._feature_store.count_chunks())
                state, requests = await self._run_in_thread(self._scheduler.resume, state, connected)
            self._run_log.lines.emit(*dict.fromkeys([*lines, *self._scheduler.log_lines(state)]))
            self._send_requests(requests)
            while self.version < self._plan.rounds:
                if self._scheduler.failure(state):
                    raise RunFailed(self._scheduler.failure(state))
                state = await self._handle_event(state, await self._next_event(state))
            return self._scheduler.model(state)
        finally:
            self._executor.shutdown()

    async def _next_event(self, state: S) -> Event:
        """Return the next event, and log which workers are missing or still training.

        Training may take any time, but the wait for missing workers is limited to ``peer_timeout`` seconds.
        """
        loop, peer_timeout = asyncio.get_running_loop(), self._plan.peer_timeout
        if self._links.has_event and loop.time() < self._round_deadline:  # nothing to wait for, and nothing to log
            return await self._links.next_event()
        missing_workers = self._scheduler.waiting_for(state)
        if not missing_workers:
            self._min_results_deadline = math.inf
        elif self._min_results_deadline == math.inf:
            self._min_results_deadline = loop.time() + peer_timeout
            bound = (
                "" if self._plan.wait_for_workers == "forever" else f", at most {peer_timeout:g} s; then the run ends"
            )
            self._run_log.lines.emit(f"Waiting for {', '.join(missing_workers)}{bound}")
        while True:
            until = min(
                self._next_reminder,
                self._round_deadline,
                self._min_results_deadline if self._plan.wait_for_workers != "forever" else math.inf,
            )
            try:
                async with asyncio.timeout_at(until):
                    return await self._links.next_event()
            except TimeoutError:
                now = loop.time()
            delay = now - until
            if delay > peer_timeout / CHECKS_PER_TIMEOUT:  # this process was suspended, so no deadline counts that time
                self._next_reminder, self._round_deadline, self._min_results_deadline = (
                    at + delay for at in (self._next_reminder, self._round_deadline, self._min_results_deadline)
                )
            if now >= self._round_deadline:
                self._round_deadline += self._plan.round_timeout
                return RoundTimeout(version=self.version)
            if now >= self._min_results_deadline and self._plan.wait_for_workers != "forever":
                raise RunFailed(self._links.describe_unreachable(set(missing_workers)))
            if now >= self._next_reminder:
                self._next_reminder = now + peer_timeout
                if self._links.busy_workers:
                    log.info("Waiting for the answer of %s", ", ".join(self._links.busy_workers))
                for worker, seconds_left in self._links.postponed_seconds.items():
                    log.info("Waiting for %s, which gets its next request in %s", worker, format_duration(seconds_left))

    async def _handle_event(self, before: S, event: Event) -> S:
        """Pass one event to the scheduler and send its requests; write the record of a new model version."""
        if isinstance(event, WorkerConnected):
            self._run_log.set_worker_labels(self._links.worker_labels)
        if self._feature_store is not None:
            event = await self._run_in_thread(self._store_features, self._feature_store, before, event)
        state, requests = await self._run_in_thread(self._scheduler.react, before, event)
        if isinstance(event, TaskResult):
            self._one_time_log.log_warnings(event.metrics)
            await self._run_in_thread(self._queue_worker_model, before, event)
        version = self._scheduler.version(state)
        if version == self.version:
            if (
                isinstance(state, CollectThenTrainState)
                and isinstance(before, CollectThenTrainState)
                and state.must_checkpoint(before)
            ):
                await self._save_checkpoint(state)
            if state is not before:
                self._log_and_send(state, requests)
            return state
        self.model, self.version = self._scheduler.model(state), version
        record = self._build_record(self._scheduler.record(state))
        self._start_version()
        self._send_requests(requests)
        if self._evaluation_queue is not None and self._plan.is_evaluation_round(version):
            await self._run_in_thread(self._evaluation_queue.add_model, version, FEDERATED_MODEL, self.model)
            self._evaluation_queue.close_round(version, list(self._links.links))
        self._run_log.write_record("round", **record)
        await self._save_checkpoint(state)
        self._run_log.lines.emit(*self._scheduler.log_lines(state))
        return state

    def _store_features(self, feature_store: FeatureStore, state: S, event: Event) -> Event:
        """Store the features of a result, and return the event without them for the scheduler."""
        if not isinstance(event, TaskResult):
            return event
        assert isinstance(self._scheduler, CollectThenTrainScheduler)
        try:
            place = self._scheduler.spool(state, event)
        except RejectedUpdate as error:
            return build_failure(event, "rejected", str(error))
        if place is None:
            return event
        feature_store.save_chunk(*place, event.tensors)
        return replace(event, tensors={})

    def _log_and_send(self, state: S, requests: Sequence[TaskRequest]) -> None:
        self._run_log.lines.emit(*self._scheduler.log_lines(state))
        self._send_requests(requests)

    def _send_requests(self, requests: Sequence[TaskRequest]) -> None:
        for request in requests:
            self._links.send_request(request)
        if self._round_deadline == math.inf and any(request.worker != DEFAULT_COORDINATOR_ID for request in requests):
            self._round_deadline = asyncio.get_running_loop().time() + self._plan.round_timeout

    def _queue_worker_model(self, state: S, result: TaskResult) -> None:
        version = self._scheduler.version(state) + 1
        if (
            self._evaluation_queue is None
            or not self._plan.is_evaluation_round(version)
            or result.worker not in self._evaluated_workers
        ):
            return
        model = self._scheduler.worker_model(state, result)
        if model is not None:
            self._evaluation_queue.add_model(version, result.worker, model)

    async def _save_checkpoint(self, state: S) -> None:
        """Write a checkpoint of the state, from which the run continues if this process dies."""
        place = self._run_log.position()
        await self._run_in_thread(self._run_log.sync)
        await self._run_in_thread(self._checkpoints.save, self.version, state, place)

    def _start_version(self) -> None:
        self._version_start = monotonic_seconds()
        self._bytes_at_start = self._links.bytes_transferred
        self._round_deadline = math.inf
        self._next_reminder = asyncio.get_running_loop().time() + self._plan.peer_timeout

    def _build_record(self, scheduler_record: dict[str, Any]) -> dict[str, Any]:
        """Return the record of the completed version, and log whose results an asynchronous version contains."""
        if "updates" in scheduler_record:
            contributions = ", ".join(
                f"{update['worker']} (staleness {update['staleness']})" for update in scheduler_record["updates"]
            )
            self._run_log.lines.emit(f"Model version {self.version}/{self._plan.rounds}: {contributions}")
        sent, received = self._links.bytes_transferred
        return {
            "round": self.version,
            "seconds": round(monotonic_seconds() - self._version_start, 6),
            "bytes_sent": sent - self._bytes_at_start[0],
            "bytes_received": received - self._bytes_at_start[1],
            **scheduler_record,
        }

    async def _run_in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function in the scheduler's thread, in order of the calls, so that it does not block the links."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)
