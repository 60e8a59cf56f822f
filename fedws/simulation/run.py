"""One algorithm's run over a simulated fleet, in a virtual time of its own."""

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
"""Called with every record of the run, and the virtual seconds."""


@dataclass
class SimulationResult:
    """What came of a run, in virtual time."""

    algorithm: str
    evaluations: list[tuple[float, float]] = field(default_factory=list)
    """When the federated model was scored, in seconds, and its accuracy, 0 to 1."""
    num_versions: int = 0
    seconds: float = 0.0
    """When it ended."""
    event_counts: Mapping[str, int] = field(default_factory=dict)
    """Events by kind, as in ``events.jsonl``."""
    failure: str = ""
    """Why it could not go on; empty when it came to its end, to the time limit or to the target."""

    def seconds_to_accuracy(self, target: float) -> float | None:
        """The seconds until the accuracy was at least ``target``; None when it never was."""
        return next((when for when, accuracy in self.evaluations if accuracy >= target), None)

    @property
    def accuracy(self) -> float | None:
        """The last one; None when there is none."""
        return self.evaluations[-1][1] if self.evaluations else None


def run_simulation(
    plan: Plan, directory: Path, fleet: SimulatedFleet, evaluator: Worker, observers: Sequence[SimulationObserver] = ()
) -> SimulationResult:
    """Run ``plan`` over the fleet and keep its record in ``directory``; ``evaluator`` scores in no time.

    Raises UsageError for a plan that cannot work, and :class:`fedws.simulation.virtual_loop.Deadlock`.
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
        stack.callback(event_log.close)  # before the devices are put away
        bound, wanted = (
            asyncio.timeout(conditions.max_seconds),
            conditions.target_accuracy if conditions.stop_at_target else None,
        )

        def watch(record: Record) -> None:
            _handle_record(record, event_log, outcome, loop.time())
            for observe in observers:
                observe(record, loop.time())
            if wanted is not None and not bound.expired() and outcome.seconds_to_accuracy(wanted) is not None:
                bound.reschedule(loop.time())  # the time is up

        try:
            async with bound:
                await run_plan(plan, directory, [watch])
        except TimeoutError:
            if not bound.expired():
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
    """The devices come and go while the context lasts. Raises what ended one of them."""
    tasks = [asyncio.create_task(device.run(limits), name=device.node) for device in devices]
    await asyncio.sleep(0)  # now all are served
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
    """Log lines tell virtual time, from 1970-01-01 00:00:00 on, while the context lasts."""
    epoch = -calendar.timegm(time.localtime(0))  # whatever the time zone that a formatter puts it in

    def stamp(record: logging.LogRecord) -> bool:
        record.created = epoch + now()
        record.msecs = int(1000 * (record.created % 1))
        return True

    log.addFilter(stamp)
    try:
        yield
    finally:
        log.removeFilter(stamp)
