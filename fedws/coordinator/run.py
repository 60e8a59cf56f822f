"""The functions that carry out a whole run, from a plan to a trained model and its record."""

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

from fedws.coordinator.connector import Connector
from fedws.coordinator.driver import Driver
from fedws.coordinator.evaluation_queue import EvaluationQueue
from fedws.coordinator.link import Link
from fedws.coordinator.link_report import describe_links
from fedws.coordinator.listener import listen
from fedws.coordinator.one_time_log import OneTimeLog
from fedws.coordinator.server_trainer import ServerTrainer
from fedws.coordinator.setup import prepare_run, resolve_credentials
from fedws.coordinator.starting_point import StartingPoint, find_starting_point
from fedws.coordinator.worker_links import WorkerLinks
from fedws.core import registry, tensor_file
from fedws.core.error_text import describe_error
from fedws.core.errors import FedwsError, RunFailed, StoreError, UsageError
from fedws.core.plan import Plan, build_plan
from fedws.core.resume_rules import merge_settings, resume_plan
from fedws.core.tensors import Tensors
from fedws.network.base import Limits
from fedws.network.stored_bodies import StoredBodies
from fedws.object_store.base import BodyStore
from fedws.protocol.run_claim import RunClaim, derive_takeover_key
from fedws.recording import metrics_reader
from fedws.recording.base import Sink
from fedws.recording.checkpoint import Checkpoints
from fedws.recording.evaluation_lines import FEDERATED_MODEL
from fedws.recording.run_directory import RunDirectory
from fedws.recording.run_info import load_plan_settings
from fedws.recording.run_layout import CHECKPOINTS_DIR, FEATURES_DIR, MODEL_FILE
from fedws.recording.run_log import START_POSITION, RunLog
from fedws.recording.stored_records import Record
from fedws.scheduling.base import Scheduler
from fedws.security.credentials import Credentials
from fedws.split_learning.feature_store import FeatureStore
from fedws.split_learning.scheduler import CollectThenTrainScheduler

Observer = Callable[[Record], None]


@dataclass(frozen=True)
class RunResult:
    """The result of a run."""

    model: Tensors
    """State dict of the trained federated model, on the CPU."""
    metrics: list[Record]
    """All lines of ``metrics.jsonl``, in their order."""
    directory: Path

    def rounds(self) -> list[Record]:
        """Return the records of rounds, or of versions, in order; ``record["metrics"]`` holds the workers' means."""
        return [record for record in self.metrics if record["kind"] == "round"]

    def evaluations(self, model: str = FEDERATED_MODEL) -> list[Record]:
        """Return the evaluations of the federated model, or of the worker model named ``model``, by round."""
        return [record for record in self.metrics if record["kind"] == "evaluation" and record["model"] == model]

    @property
    def accuracy(self) -> float | None:
        """Newest accuracy of the federated model, 0 to 1; None if it was not evaluated or is not a classifier."""
        scores = self.evaluations()
        return scores[-1]["accuracy"] if scores else None


async def run(
    *,
    run_dir: str | Path | None = None,
    resume: str | Path | None = None,
    observers: Sequence[Observer] = (),
    credentials: Credentials | None = None,
    body_store: BodyStore | None = None,
    **settings: Any,
) -> RunResult:
    """Run federated learning over named nodes that are being served, and write its record to ``run_dir``.

    ``settings`` are the fields of ``fedws.Plan``, which are named like the flags. Examples are
    ``workers={"alice": "ws://host:8777"}``, ``evaluator={...}`` (empty for none), ``algorithm="fedavg"``, ``model``,
    ``dataset``, ``loss``, ``optimizer`` and ``rounds``. ``observers`` are called with every record as it is written.

    ``resume`` is the directory of a run, which continues from its newest checkpoint. ``settings`` may then be omitted.
    Only the workers, all addresses and ``fedws.core.resume_rules.CHANGEABLE_ON_RESUME`` may change. A finished run
    continues with more ``rounds``, and returns at once without them.

    ``credentials`` authenticate the run and its nodes, and default to the user's own network key. With ``body_store``,
    large bodies pass through its object store to and from all nodes that have one. They are deleted at the end.

    Raises UsageError for an invalid setting. Raises RunFailed with the node and the reason if the run cannot continue.
    The record then contains the completed rounds.
    """
    if resume is not None:
        if run_dir is not None:
            raise UsageError("resume cannot be combined with run_dir; remove run_dir")
        return await resume_run(Path(resume), settings, observers, credentials, body_store)
    return await run_plan(
        build_plan(settings), Path(run_dir) if run_dir is not None else None, observers, credentials, body_store
    )


def run_sync(**settings: Any) -> RunResult:
    """Call ``run`` from code that is not async, even if an event loop is already running, as in a notebook.

    The call blocks the caller's loop, so nodes that are served in that loop (``memory://``) cannot answer. Use
    ``await run`` for them.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(run(**settings))
    stop: SimpleQueue[Callable[[], object]] = SimpleQueue()

    async def stoppable() -> RunResult:
        loop, task = asyncio.get_running_loop(), asyncio.ensure_future(run(**settings))
        stop.put(lambda: loop.call_soon_threadsafe(task.cancel))
        return await task

    with ThreadPoolExecutor(1, thread_name_prefix="fedws") as thread:
        result = thread.submit(asyncio.run, stoppable())
        try:
            return result.result()
        except KeyboardInterrupt:  # from a notebook
            stop.get()()
            raise


async def run_plan(
    plan: Plan,
    directory: Path | None = None,
    observers: Sequence[Observer] = (),
    credentials: Credentials | None = None,
    body_store: BodyStore | None = None,
    on_directory: Callable[[Path], object] = lambda path: None,
) -> RunResult:
    """Call ``run`` for an existing plan, and ``on_directory`` with the run's directory once it exists."""
    plan, scheduler, initial = prepare_run(plan)
    credentials = resolve_credentials(plan, credentials)
    run_directory = RunDirectory.create_unique(plan.algorithm) if directory is None else RunDirectory.create(directory)
    with contextlib.closing(run_directory):
        on_directory(run_directory.path)
        return await _run(plan, scheduler, initial, run_directory, StartingPoint(), observers, credentials, body_store)


async def resume_run(
    directory: Path,
    settings: Mapping[str, Any] = MappingProxyType({}),
    observers: Sequence[Observer] = (),
    credentials: Credentials | None = None,
    body_store: BodyStore | None = None,
) -> RunResult:
    """Call ``run`` with ``resume``. Raises UsageError also if the run is not found."""
    with contextlib.closing(RunDirectory.open_existing(directory)) as run_directory:
        checkpoints = Checkpoints(directory / CHECKPOINTS_DIR)
        plan = resume_plan(
            run_directory.plan, merge_settings(load_plan_settings(directory), settings), f"--resume {directory}"
        )
        if run_directory.finished:
            checkpoints.prune()  # the run may have been killed before it did so
            if plan.rounds == run_directory.plan.rounds:
                return _load_finished_run(directory)
        plan, scheduler, initial = prepare_run(plan, read_initial_model=not checkpoints.exist())
        credentials = resolve_credentials(plan, credentials)
        start = find_starting_point(run_directory, plan, scheduler, checkpoints)
        return await _run(plan, scheduler, initial, run_directory, start, observers, credentials, body_store)


async def _run(
    plan: Plan,
    scheduler: Scheduler[Any],
    initial_model: Tensors,
    run_directory: RunDirectory,
    start: StartingPoint,
    observers: Sequence[Observer],
    credentials: Credentials,
    body_store: BodyStore | None,
) -> RunResult:
    stored, run_log, checkpoints = (
        start.checkpoint,
        RunLog(run_directory.path),
        Checkpoints(run_directory.path / CHECKPOINTS_DIR),
    )
    run_log.checkpoint_extra = {"workers": list(plan.workers), "changed": start.workers_changed}
    name = run_directory.begin(plan)
    if run_directory.retained:
        run_log.truncate(*((stored.version, stored.extra) if stored is not None else (0, START_POSITION)))

    limits = Limits(plan.max_message_bytes, plan.peer_timeout, plan.ping_interval)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(run_log.close)
        stored_bodies, has_store = None, False
        if body_store is not None:
            stored_bodies = StoredBodies(body_store.store, body_store.min_bytes, name, credentials.coordinator)
            has_store = await stored_bodies.put_probe()
            stack.push_async_callback(
                _delete_stored_bodies, stored_bodies, [credentials.coordinator, *plan.workers, *plan.evaluator], run_log
            )
        listener = await stack.enter_async_context(listen(plan, limits, credentials))

        def link(node: str, url: str, role: Literal["worker", "evaluator"]) -> Link:
            join_listener = listener if url == plan.listen else None
            data, seed = plan.dataset, plan.seed
            claim = RunClaim(name, credentials.coordinator, derive_takeover_key(run_directory.secret, node))
            connector = Connector(
                node, url, role, claim, data, limits, seed, credentials, join_listener, has_body_store=has_store
            )
            return Link(connector, stored_bodies if has_store else None)

        evaluation_queue, feature_store = None, None
        eval_settings, one_time_log = plan.eval_settings(), OneTimeLog(run_log.lines)
        if isinstance(scheduler, CollectThenTrainScheduler):
            eval_settings = scheduler.configure_evaluation(eval_settings)
            feature_store = FeatureStore(run_directory.path / FEATURES_DIR)
        for node, url in plan.evaluator.items():
            evaluation_queue = EvaluationQueue(
                link(node, url, "evaluator"), eval_settings, plan.peer_timeout, run_log, one_time_log
            )
            stack.push_async_callback(evaluation_queue.stop)
        links = {worker: link(worker, url, "worker") for worker, url in plan.workers.items()}
        server_trainer = None
        if feature_store is not None:
            server_trainer = await stack.enter_async_context(ServerTrainer(plan, feature_store.folder))
        worker_links = WorkerLinks(
            links, plan.peer_timeout, wait_forever=plan.wait_for_workers == "forever", server_trainer=server_trainer
        )
        await stack.enter_async_context(worker_links)
        connected: Mapping[str, int] = dict.fromkeys(links, 0)
        if stored is None or stored.version < plan.rounds:  # otherwise only evaluations are missing
            connected = await worker_links.wait_until_connected(scheduler.min_results)
        run_directory.retain()
        run_log.open()
        run_log.set_worker_labels(worker_links.worker_labels)
        sink: Sink = registry.build_piece("sink", "tensorboard", run_log.directory)
        stack.callback(sink.close)
        run_log.add_sink(sink)
        run_log.observers += observers
        if stored is not None and evaluation_queue is not None:
            evaluation_queue.restore(stored.version, stored.extra["pending"])
        run_log.lines.emit(*start.log_lines)
        if plan.listen and not plan.evaluator:
            run_log.lines.emit("No model is evaluated: --evaluator is not set")
        run_log.lines.emit(*describe_links(links, plan, credentials, body_store if has_store else None))
        if disconnected := [worker for worker in links if worker not in connected]:
            run_log.lines.emit(f"Started without {', '.join(disconnected)}")
        driver = Driver(
            plan, scheduler, worker_links, evaluation_queue, run_log, checkpoints, one_time_log, feature_store
        )
        try:
            model = await driver.run(initial_model, connected, stored)
            await worker_links.close()
            if evaluation_queue is not None:
                await evaluation_queue.finish()
        except BaseException as error:
            reason = describe_error(error) if isinstance(error, Exception) else "stopped"
            run_log.lines.emit(f"Ended after round {driver.version} of {plan.rounds}: {reason}")
            with contextlib.suppress(FedwsError, OSError):  # report only the first error
                run_log.write_results(driver.model, plan)
            raise
        run_log.write_results(model, plan)
        run_directory.mark_finished()
        checkpoints.prune()
    return RunResult(model, run_log.records, run_log.directory)


async def _delete_stored_bodies(stored_bodies: StoredBodies, nodes: Sequence[str], run_log: RunLog) -> None:
    try:
        await stored_bodies.delete_all(nodes)
    except StoreError as error:
        run_log.lines.emit(f"The bodies of this run were not deleted from the object store: {error}")


def _load_finished_run(directory: Path) -> RunResult:
    """Return the result of a finished run. Raise RunFailed, OSError or UsageError if it cannot be read."""
    path = directory / MODEL_FILE
    try:
        model = tensor_file.load_tensors(path)
    except SafetensorError as error:
        raise RunFailed(f"cannot read {path}: {error}; resume with more --rounds to write it again") from None
    return RunResult(model, metrics_reader.read_records(directory), directory)
