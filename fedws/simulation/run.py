"""The run of one algorithm with a simulated fleet, in virtual time that starts at 0."""

import asyncio
import calendar
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedws.coordinator.run import run_plan
from fedws.core.errors import RunFailed
from fedws.core.plan import Plan
from fedws.network.base import Limits
from fedws.node.server import serve
from fedws.node.worker import Worker
from fedws.recording.evaluation_lines import FEDERATED_MODEL
from fedws.recording.run_log import log
from fedws.recording.stored_records import Record
from fedws.simulation import virtual_loop
from fedws.simulation.device import Device
from fedws.simulation.event_log import EventLog
from fedws.simulation.fleet import SimulatedFleet

EVENTS_FILE = "events.jsonl"
SimulationObserver = Callable[[Record, float], None]
"""Type of a callback that gets each record of the run and the virtual time in seconds."""


@dataclass
class SimulationResult:
    """The result of a simulated run. Times are virtual."""

    algorithm: str
    evaluations: list[tuple[float, float]] = field(default_factory=list)
    """Time in seconds and accuracy, 0 to 1, of each evaluation of the federated model."""
    num_versions: int = 0
    """Number of versions of the model."""
    seconds: float = 0.0
    """Time in seconds at which the run ended."""
    event_counts: Mapping[str, int] = field(default_factory=dict)
    """Number of events in ``events.jsonl`` by kind."""
    failure: str = ""
    """Reason for which the run failed. Empty if it reached its end, the time limit or the target."""

    def seconds_to_accuracy(self, target: float) -> float | None:
        """Return the time in seconds until the accuracy was at least ``target``, or None if it never was."""
        return next((when for when, accuracy in self.evaluations if accuracy >= target), None)

    @property
    def accuracy(self) -> float | None:
        """Return the last accuracy, or None without evaluations."""
        return self.evaluations[-1][1] if self.evaluations else None


def run_simulation(
    plan: Plan, directory: Path, fleet: SimulatedFleet, evaluator: Worker, observers: Sequence[SimulationObserver] = ()
) -> SimulationResult:
    """Run ``plan`` with the fleet, and write its records to ``directory``.

    ``evaluator`` evaluates models without virtual time. Raise UsageError if the plan is invalid, and
    ``fedws.simulation.virtual_loop.Deadlock`` if the run cannot continue.
    """
    return virtual_loop.run_in_virtual_time(_run(plan, directory, fleet, evaluator, observers))


async def _run(
    plan: Plan, directory: Path, fleet: SimulatedFleet, evaluator: Worker, observers: Sequence[SimulationObserver]
) -> SimulationResult:
    loop, limits, conditions = (
        asyncio.get_running_loop(),
        Limits(plan.max_message_bytes, plan.peer_timeout),
        fleet.conditions,
    )
    event_log, outcome = EventLog(directory / EVENTS_FILE), SimulationResult(plan.algorithm)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(_log_virtual_time(loop.time))
        await stack.enter_async_context(_run_devices(fleet.build_devices(event_log), limits))
        await stack.enter_async_context(serve(evaluator, f"memory://{evaluator.node}", limits))
        stack.callback(event_log.close)  # before the shutdown of the devices
        time_limit = asyncio.timeout(conditions.max_seconds)
        target = conditions.target_accuracy if conditions.stop_at_target else None

        def watch(record: Record) -> None:
            _handle_record(record, event_log, outcome, loop.time())
            for observe in observers:
                observe(record, loop.time())
            if target is not None and not time_limit.expired() and outcome.seconds_to_accuracy(target) is not None:
                time_limit.reschedule(loop.time())  # this ends the run

        try:
            async with time_limit:
                await run_plan(plan, directory, [watch])
        except TimeoutError:
            if not time_limit.expired():
                raise
        except RunFailed as error:
            outcome.failure = str(error)
        outcome.seconds, outcome.event_counts = loop.time(), dict(event_log.counts)
    return outcome


def _handle_record(record: Record, event_log: EventLog, result: SimulationResult, now: float) -> None:
    if record["kind"] == "round":
        result.num_versions = record["round"]
        counts = {name: record[name] for name in ("num_results", "num_failures")}
        event_log.write("version", version=record["round"], **counts)
    elif record["kind"] == "evaluation" and record["model"] == FEDERATED_MODEL:
        event_log.write("evaluation", version=record["round"], accuracy=record["accuracy"], loss=record["loss"])
        if record["accuracy"] is not None:
            result.evaluations.append((now, record["accuracy"]))


@contextlib.asynccontextmanager
async def _run_devices(devices: Sequence[Device], limits: Limits) -> AsyncIterator[None]:
    """Run the devices while the context is open. Raise the error of a device at the end of the context."""
    tasks = [asyncio.create_task(device.run(limits), name=device.node) for device in devices]
    await asyncio.sleep(0)  # each device starts its server
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


@contextlib.contextmanager
def _log_virtual_time(now: Callable[[], float]) -> Iterator[None]:
    """Make log records show virtual time, which starts at 1970-01-01 00:00:00, while the context is open."""
    epoch = -calendar.timegm(time.localtime(0))  # cancels the time zone of formatters

    def stamp(record: logging.LogRecord) -> bool:
        record.created = epoch + now()
        record.msecs = int(1000 * (record.created % 1))
        return True

    log.addFilter(stamp)
    try:
        yield
    finally:
        log.removeFilter(stamp)
