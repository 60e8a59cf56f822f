"""A whole run: from a plan to a trained model and its record."""

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from fedws import curves, holding, learning, registry
from fedws.coordinator.drive import Driver
from fedws.coordinator.link import Link, dial
from fedws.coordinator.scoring import Scorer
from fedws.errors import FedwsError
from fedws.interfaces import Limits, Strategy
from fedws.plan import Plan, make
from fedws.rounds import Rounds
from fedws.runlog import Record, RunLog, new_directory
from fedws.scores import FEDERATED
from fedws.service import transport
from fedws.tensorboard import Events
from fedws.tensors import Tensors, detached

Observer = Callable[[Record], None]


@dataclass(frozen=True)
class Result:
    """What a run leaves."""

    model: Tensors
    """The trained federated model, a state dict on the CPU."""
    metrics: list[Record]
    """Every line of ``metrics.jsonl``, in its order."""
    directory: Path

    def scores(self, model: str = FEDERATED) -> list[Record]:
        """The scores of the federated model, or of a worker's own, by round."""
        return [record for record in self.metrics if record["kind"] == "score" and record["model"] == model]

    @property
    def accuracy(self) -> float | None:
        """The federated model's last accuracy, 0 to 1; None when it was never scored or does not classify."""
        scores = self.scores()
        return scores[-1]["accuracy"] if scores else None


async def run(*, run_dir: str | Path | None = None, observers: Sequence[Observer] = (), **settings: Any) -> Result:
    """Run federated learning over named nodes that are being served, and keep its record in ``run_dir``.

    ``settings`` are the fields of :class:`fedws.Plan`, named as the flags: ``workers={"alice": "ws://host:8777"}``,
    ``evaluator={...}`` (empty for none), ``strategy="fedavg"``, ``model``, ``dataset``, ``loss``, ``optimizer``,
    ``training_rounds`` and the rest. ``observers`` are called with every record as it is written.

    Raises UsageError for a setting that cannot work, and RunFailed, naming node and reason, when the run cannot go
    on; the rounds that were complete by then are in the record.
    """
    return await run_plan(make(settings), Path(run_dir) if run_dir is not None else None, observers)


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


async def run_plan(plan: Plan, directory: Path | None = None, observers: Sequence[Observer] = ()) -> Result:
    """:func:`run` for a plan that is made already."""
    for plugin in plan.plugin:
        registry.load_plugin(plugin)
    if not plan.model:
        plan = plan.model_copy(update={"model": holding.model(plan.dataset)})
    for url in [*plan.workers.values(), *plan.evaluator.values()]:
        transport(url).check(url)
    strategy, initial = prepare(plan)
    runlog = RunLog(directory or new_directory(plan.strategy))
    limits = Limits(plan.max_message, plan.silence)
    name = secrets.token_hex(4)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(runlog.close)
        scorer = None
        if plan.evaluator:
            ((node, url),) = plan.evaluator.items()
            scorer = Scorer(lambda: dial(node, url, name, "evaluator", plan.dataset, limits), plan.scoring(), runlog)
            stack.push_async_callback(scorer.stop)
        links = await _dial_all(plan, name, limits, stack)
        groups = {worker: link.welcome.labels for worker, link in links.items()}
        if scorer is not None:
            scorer.groups = curves.share_groups(groups)
        runlog.open(plan, groups)
        if plan.cuda:
            _say_who_has_no_gpu(links, runlog)
        events = Events(runlog.directory)
        stack.callback(events.close)
        runlog.observers += [events.add, *observers]
        driver = Driver(plan, strategy, links, scorer, runlog)
        try:
            model = await driver.run(initial)
            if scorer is not None:
                await scorer.finish()
        except BaseException as error:
            reason = str(error) if isinstance(error, FedwsError) else "stopped"
            runlog.lines.say(f"Ended after round {driver.version} of {plan.training_rounds}: {reason}")
            with contextlib.suppress(FedwsError, OSError):  # the first reason is the one to tell
                runlog.finish(driver.model, plan, groups)
            raise
        runlog.finish(model, plan, groups)
    return Result(model, runlog.records, runlog.directory)


def prepare(plan: Plan) -> tuple[Strategy[Any], Tensors]:
    """The strategy and the initial model; every piece that the plan names is looked up here, before any dialling."""
    module = learning.initial(plan.model, plan.seed)
    registry.find("dataset", registry.Spec.parse(plan.dataset).name)
    registry.build("loss", plan.loss)
    registry.build("optimizer", plan.optimizer, module.parameters(), plan.lr)
    aggregator = registry.build("aggregator", plan.aggregator + (",weighted=true" if plan.weighted else ""))
    algorithm = registry.build("strategy", plan.strategy, plan.training())
    if hasattr(algorithm, "step"):
        algorithm = Rounds(algorithm, aggregator, plan.training_rounds, plan.seed)
    return algorithm, detached(module.state_dict())


async def _dial_all(plan: Plan, run: str, limits: Limits, stack: contextlib.AsyncExitStack) -> dict[str, Link]:
    """Dial all workers at once; the first that cannot be had ends the attempt for all."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = {
                worker: group.create_task(_worker(worker, url, run, plan, limits, stack))
                for worker, url in plan.workers.items()
            }
    except* FedwsError as failed:
        raise failed.exceptions[0] from None
    return {worker: task.result() for worker, task in tasks.items()}


async def _worker(
    worker: str, url: str, run: str, plan: Plan, limits: Limits, stack: contextlib.AsyncExitStack
) -> Link:
    link = await dial(worker, url, run, "worker", plan.dataset, limits)
    stack.push_async_callback(link.channel.close)
    return link


def _say_who_has_no_gpu(links: dict[str, Link], runlog: RunLog) -> None:
    without = [worker for worker, link in links.items() if not link.welcome.cuda]
    if without:
        runlog.lines.say(f"--cuda: no GPU on {', '.join(without)}, which compute on the CPU")
