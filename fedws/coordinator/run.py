"""A whole run: from a plan to a trained model and its record."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import MappingProxyType
from typing import Any, Literal

from safetensors import SafetensorError

from fedws.coordinator.connector import Contact
from fedws.coordinator.driver import Driver
from fedws.coordinator.evaluation import Scorer
from fedws.coordinator.fleet import Fleet
from fedws.coordinator.link import Link
from fedws.coordinator.listener import listening
from fedws.coordinator.one_time_log import Remarks
from fedws.coordinator.server_trainer import OwnNode
from fedws.coordinator.setup import prepare, secured
from fedws.coordinator.starting_point import Start, continued
from fedws.core import tensor_file
from fedws.core.error_location import told
from fedws.core.errors import FedwsError, RunFailed, StoreError, UsageError
from fedws.core.plan import Plan, make
from fedws.core.resume_rules import going_on, merged
from fedws.core.tensors import Tensors
from fedws.network.base import Limits
from fedws.network.lookup import transport
from fedws.network.stored_bodies import Blobs
from fedws.object_store.base import Shelf
from fedws.protocol.run_claim import Claim, takeover
from fedws.recording import curves
from fedws.recording.checkpoint import Checkpoints
from fedws.recording.run_directory import RunDirectory, stored_settings
from fedws.recording.run_log import NOTHING, Record, RunLog
from fedws.recording.score_lines import FEDERATED
from fedws.recording.sinks.tensorboard import Events
from fedws.scheduling.base import Strategy
from fedws.security.credentials import Security
from fedws.split_learning.feature_store import FeatureStore
from fedws.split_learning.scheduler import Gathering

Observer = Callable[[Record], None]


@dataclass(frozen=True)
class Result:
    """What a run leaves."""

    model: Tensors
    """The trained federated model, a state dict on the CPU."""
    metrics: list[Record]
    """Every line of ``metrics.jsonl``, in its order."""
    directory: Path

    def rounds(self) -> list[Record]:
        """Return the records of rounds, or of versions, in order; ``record["metrics"]`` holds the workers' means."""
        return [record for record in self.metrics if record["kind"] == "round"]

    def scores(self, model: str = FEDERATED) -> list[Record]:
        """The scores of the federated model, or of a worker's own, by round."""
        return [record for record in self.metrics if record["kind"] == "score" and record["model"] == model]

    @property
    def accuracy(self) -> float | None:
        """The federated model's last accuracy, 0 to 1; None when it was never scored or does not classify."""
        scores = self.scores()
        return scores[-1]["accuracy"] if scores else None


async def run(
    *,
    run_dir: str | Path | None = None,
    resume: str | Path | None = None,
    observers: Sequence[Observer] = (),
    security: Security | None = None,
    shelf: Shelf | None = None,
    **settings: Any,
) -> Result:
    """Run federated learning over named nodes that are being served, and keep its record in ``run_dir``.

    ``settings`` are the fields of :class:`fedws.Plan`, named as the flags: ``workers={"alice": "ws://host:8777"}``,
    ``evaluator={...}`` (empty for none), ``strategy="fedavg"``, ``model``, ``dataset``, ``loss``, ``optimizer``,
    ``training_rounds`` and the rest. ``observers`` are called with every record as it is written.

    With ``resume``, a run's directory, continue that run from its newest checkpoint. ``settings`` may then be left out,
    or must be those of the run, but for :data:`fedws.core.resume_rules.MAY_CHANGE`, the workers and all addresses. A
    run that has finished continues with more ``training_rounds``, and is over at once without.

    ``security`` is what the run proves itself with, and asks of its nodes; by default the user's own network key. With
    ``shelf``, large bodies go through its object store to and from all nodes that have one, and are deleted at the end.

    Raises UsageError for a setting that cannot work, and RunFailed, naming node and reason, when the run cannot go
    on; the rounds that were complete by then are in the record.
    """
    if resume is not None:
        if run_dir is not None:
            raise UsageError("a run goes on in its own directory; leave run_dir out")
        return await resume_run(Path(resume), settings, observers, security, shelf)
    return await run_plan(make(settings), Path(run_dir) if run_dir is not None else None, observers, security, shelf)


def run_sync(**settings: Any) -> Result:
    """:func:`run` for code that is not async, and also where an event loop is already running, as in a notebook.

    The caller's loop stands still meanwhile; nodes served in it (``memory://``) cannot answer, so ``await run``
    there.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(run(**settings))
    stop: SimpleQueue[Callable[[], object]] = SimpleQueue()

    async def stoppable() -> Result:
        loop, task = asyncio.get_running_loop(), asyncio.ensure_future(run(**settings))
        stop.put(lambda: loop.call_soon_threadsafe(task.cancel))
        return await task

    with ThreadPoolExecutor(1, thread_name_prefix="fedws") as thread:
        result = thread.submit(asyncio.run, stoppable())
        try:
            return result.result()
        except KeyboardInterrupt:  # of a notebook
            stop.get()()
            raise


async def run_plan(
    plan: Plan,
    directory: Path | None = None,
    observers: Sequence[Observer] = (),
    security: Security | None = None,
    shelf: Shelf | None = None,
    taken: Callable[[Path], object] = lambda path: None,
) -> Result:
    """:func:`run` for a plan that is made already; ``taken`` is called with the run's directory once it has one."""
    plan, strategy, initial = prepare(plan)
    security = secured(plan, security)
    found = RunDirectory.named(plan.strategy) if directory is None else RunDirectory.new(directory)
    with contextlib.closing(found) as held:
        taken(held.path)
        return await _run(plan, strategy, initial, held, Start(), observers, security, shelf)


async def resume_run(
    directory: Path,
    given: Mapping[str, Any] = MappingProxyType({}),
    observers: Sequence[Observer] = (),
    security: Security | None = None,
    shelf: Shelf | None = None,
) -> Result:
    """:func:`run` with ``resume``; ``given`` are the settings. Raises UsageError also when there is no such run."""
    with contextlib.closing(RunDirectory.old(directory)) as held:
        checkpoints = Checkpoints(directory / "checkpoints")
        plan = going_on(held.plan, merged(stored_settings(directory), given), f"--resume {directory}")
        if held.finished:
            checkpoints.trim()  # it may have been killed just before it did
            if plan.training_rounds == held.plan.training_rounds:
                return _finished(directory)
        plan, strategy, initial = prepare(plan, first=not checkpoints.any())
        security = secured(plan, security)
        start = continued(held, plan, strategy, checkpoints)
        return await _run(plan, strategy, initial, held, start, observers, security, shelf)


async def _run(
    plan: Plan,
    strategy: Strategy[Any],
    initial: Tensors,
    held: RunDirectory,
    start: Start,
    observers: Sequence[Observer],
    security: Security,
    shelf: Shelf | None,
) -> Result:
    stored, runlog, checkpoints = start.checkpoint, RunLog(held.path), Checkpoints(held.path / "checkpoints")
    runlog.marks = {"workers": list(plan.workers), "changed": start.changed}
    name = held.begin(plan)
    if held.kept:
        runlog.cut_back(*((stored.number, stored.extra) if stored is not None else (0, NOTHING)))

    limits = Limits(plan.max_message, plan.silence, plan.heartbeat)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(runlog.close)
        blobs = None
        if shelf is not None:
            blobs = Blobs(shelf.store, shelf.above, name, security.name)
            stack.push_async_callback(_clean, blobs, [security.name, *plan.workers, *plan.evaluator], runlog)
        meeting = await stack.enter_async_context(listening(plan, limits, security))

        def link(node: str, url: str, role: Literal["worker", "evaluator"]) -> Link:
            point = meeting if url == plan.listen else None
            stored = blobs is not None
            data, seed = plan.dataset, plan.seed
            claim = Claim(name, security.name, takeover(held.secret, node))
            contact = Contact(node, url, role, claim, data, limits, seed, security, point, blobs=stored)
            return Link(contact, plan.silence, blobs)

        scorer, scoring, store, remarks = None, plan.scoring(), None, Remarks(runlog.lines)
        if isinstance(strategy, Gathering):
            scoring, store = strategy.scoring(scoring), FeatureStore(held.path / "features")
        for node, url in plan.evaluator.items():
            scorer = Scorer(link(node, url, "evaluator"), scoring, plan.silence, runlog, remarks)
            stack.push_async_callback(scorer.stop)
        links = {worker: link(worker, url, "worker") for worker, url in plan.workers.items()}
        own = await stack.enter_async_context(OwnNode(plan, store.folder)) if store is not None else None
        fleet = Fleet(links, plan.silence, for_ever=plan.wait == "forever", own=own)
        await stack.enter_async_context(fleet)
        here: Mapping[str, int] = dict.fromkeys(links, 0)
        if stored is None or stored.number < plan.training_rounds:  # else only scores are missing
            here = await fleet.gather(strategy.quorum)
        held.keep()
        runlog.open()
        runlog.know(fleet.groups)
        events = Events(runlog.directory, runlog.records)
        stack.callback(events.close)
        runlog.observers += [events.add, *observers]
        if stored is not None and scorer is not None:
            scorer.restore(stored.number, stored.extra["waiting"])
        runlog.lines.say(*start.lines)
        if plan.listen and not plan.evaluator:
            runlog.lines.say("No model is scored: there is no --evaluator")
        if security.key is None and not all(transport(url).private for url in plan.workers.values()):
            runlog.lines.say("--insecure: no worker has proved that it knows the network key")
        if away := [worker for worker in links if worker not in here]:
            runlog.lines.say(f"Beginning without {', '.join(away)}")
        if plan.cuda:
            _say_who_has_no_gpu(links, runlog)
        driver = Driver(plan, strategy, fleet, scorer, runlog, checkpoints, remarks, store)
        try:
            model = await driver.run(initial, here, stored)
            await fleet.close()
            if scorer is not None:
                await scorer.finish()
        except BaseException as error:
            reason = told(error) if isinstance(error, Exception) else "stopped"
            runlog.lines.say(f"Ended after round {driver.version} of {plan.training_rounds}: {reason}")
            with contextlib.suppress(FedwsError, OSError):  # the first reason is the one to tell
                runlog.finish(driver.model, plan)
            raise
        runlog.finish(model, plan)
        held.finish()
        checkpoints.trim()
    return Result(model, runlog.records, runlog.directory)


async def _clean(blobs: Blobs, nodes: Sequence[str], runlog: RunLog) -> None:
    try:
        await blobs.clean(nodes)
    except StoreError as error:
        runlog.lines.say(f"What this run has left in the object store stays there: {error}")


def _finished(directory: Path) -> Result:
    """What a run left that had come to its end. Raises RunFailed, OSError and UsageError when it cannot be read."""
    path = directory / "model.safetensors"
    try:
        model = tensor_file.load_file(path)
    except SafetensorError as error:
        raise RunFailed(f"{path} cannot be read: {error}; continue with more --training-rounds to write it") from None
    return Result(model, curves.read(directory), directory)


def _say_who_has_no_gpu(links: Mapping[str, Link], runlog: RunLog) -> None:
    without = [worker for worker, link in links.items() if link.welcome is not None and not link.welcome.cuda]
    if without:
        runlog.lines.say(f"--cuda: no GPU on {', '.join(without)}, which compute on the CPU")
