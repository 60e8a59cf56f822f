"""Whole runs whose workers misbehave by a drawn script, in virtual time: each ends with a model or with a reason."""

import asyncio
import contextlib
import dataclasses
import importlib
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import fedws
from fedws.core import registry
from fedws.core.errors import LinkLost
from fedws.core.tensors import Tensors, find_nonfinite
from fedws.network.base import Channel, Limits
from fedws.network.lookup import find_transport
from fedws.node.worker import Worker
from fedws.protocol.messages import Hello, TaskFailure, TaskRequest, TaskResult, Welcome, build_failure
from fedws.scheduling.asynchronous import is_asynchronous
from fedws.scheduling.base import Scheduler
from fedws.scheduling.events import Event
from fedws.simulation import virtual_loop
from fedws.split_learning.base import is_collect_then_train
from tests.helpers.federation import WORKERS, Points

NAMES = [
    name
    for name in registry.list_pieces("algorithm")
    if not is_collect_then_train(registry.find_piece("algorithm", name))
]
"""Those whose workers train; the others train in a process, which knows no virtual time."""
DATA = Points(Path(), True)
SILENCE = 12.0
"""Virtual seconds, as all times here."""
ENDLESS = 20_000.0
every = pytest.mark.parametrize("name", NAMES)

Act = tuple[str, float]
"""What a worker does with its next order, after so many seconds."""
ACTS = ["report", "report", "refuse", "fail", "NaN", "shape", "nothing", "twice", "mix up", "garble"]
ACTS += ["close before", "close after", "absent", "later", "never"]
act = st.tuples(st.sampled_from(ACTS), st.sampled_from([0.0, 0.5, 1.0, 3.0, 7.0, 30.0]))


class Node:
    """A worker at ``memory://NAME`` that follows a script, its pauses too, and then does all that it is asked."""

    def __init__(self, name: str, script: Sequence[Act] = (), *, endless: bool = False) -> None:
        """With ``endless`` it begins with its script again, for ever."""
        self.name = name
        self._again = list(script) if endless else []
        self.links = 0
        """How often it was dialled."""
        self._worker = Worker(name, "points", DATA)
        self._script = list(script)

    async def handle(self, channel: Channel) -> None:
        self.links += 1
        with contextlib.suppress(LinkLost):
            await self._serve(channel)

    async def _serve(self, channel: Channel) -> None:
        assert isinstance(await channel.receive(), Hello)
        if self._next() == "absent":
            self._script.pop(0)
            return
        await channel.send(Welcome(node=self.name, role="worker", dataset="points", num_examples=len(DATA)))
        while True:
            if self._next() in ("close before", "absent"):
                _, seconds = self._script.pop(0)
                await asyncio.sleep(seconds)
                return
            order = await channel.receive()
            assert isinstance(order, TaskRequest)
            what, seconds = self._script.pop(0) if self._script else ("report", 1.0)
            await asyncio.sleep(seconds)
            if what == "close after":
                return
            await self._answer(channel, order, what)

    async def _answer(self, channel: Channel, order: TaskRequest, what: str) -> None:
        report = self._worker.execute(order)
        assert isinstance(report, TaskResult), report
        match what:
            case "refuse" | "fail":
                kind: Any = {"refuse": "refused", "fail": "failed"}[what]
                await channel.send(build_failure(order, kind, "not today", worker=self._worker.node))
                return
            case "later" | "never":
                code: Any = {"later": "retry_later", "never": "permanent"}[what]
                reason = "policy: not allowed"
                answer = build_failure(order, "refused", reason, code, worker=self._worker.node)
                await channel.send(dataclasses.replace(answer, retry_after=60.0))
                return
            case "garble":
                await channel.send_raw([b"FDWS, or so"])  # type: ignore[attr-defined]
            case "mix up":
                await channel.send(dataclasses.replace(report, request_id="1/mallory"))
            case "twice":
                await channel.send(report)
            case "NaN" | "shape" | "nothing":
                report = dataclasses.replace(report, tensors=SPOILS[what](report.tensors))
        await channel.send(report)

    def _next(self) -> str:
        self._script = self._script or list(self._again)
        return self._script[0][0] if self._script else ""


STRIKES = ("refuse", "fail", "NaN", "shape", "nothing", "twice", "mix up", "garble")
"""The acts of which three exclude a worker; ``never`` does so at once."""
THIRDS = ("close before", "close after", "later")
"""The acts of which three with the same order are one of those."""
SPOILS: dict[str, Any] = {
    "NaN": lambda tensors: {name: value * float("nan") for name, value in tensors.items()},
    "shape": lambda tensors: {name: value[None] for name, value in tensors.items()},
    "nothing": lambda tensors: {},
}


class Watched:
    """A strategy that is looked at: every order has one answer, and nothing else has."""

    def __init__(self, strategy: Scheduler[Any]) -> None:
        self._strategy = strategy
        self.asked: dict[str, TaskRequest] = {}
        self.answered: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._strategy, name)

    def start(self, model: Tensors, workers: Sequence[str]) -> tuple[Any, Sequence[TaskRequest]]:
        state, orders = self._strategy.start(model, workers)
        self._given(orders)
        return state, orders

    def react(self, state: Any, event: Event) -> tuple[Any, Sequence[TaskRequest]]:
        if isinstance(event, TaskResult | TaskFailure):
            assert event.request_id in self.asked and event.request_id not in self.answered
            assert self.asked[event.request_id].worker == event.worker
            self.answered.add(event.request_id)
        state, orders = self._strategy.react(state, event)
        self._given(orders)
        return state, orders

    def _given(self, orders: Sequence[TaskRequest]) -> None:
        for order in orders:
            assert order.request_id not in self.asked and order.worker not in self.open()
            self.asked[order.request_id] = order

    def open(self) -> list[str]:
        return [order.worker for order in self.asked.values() if order.request_id not in self.answered]


@contextlib.contextmanager
def watching() -> Iterator[list[Watched]]:
    """The strategies of runs that begin meanwhile."""
    module: Any = importlib.import_module("fedws.coordinator.setup")
    made, watched = module._build_scheduler, []

    def strategy(plan: fedws.Plan, initial: Tensors) -> Watched:
        watched.append(Watched(made(plan, initial)))
        return watched[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_build_scheduler", strategy)
        yield watched


def scripted(scripts: Sequence[Sequence[Act]]) -> list[Node]:
    return [Node(name, script) for name, script in zip(WORKERS, scripts, strict=False)]


def run(nodes: Sequence[Node], **more: Any) -> tuple[fedws.RunResult | None, str, Watched]:
    """A run over these nodes: its result, or why there is none."""

    async def main(directory: Path) -> fedws.RunResult:
        async with contextlib.AsyncExitStack() as stack:
            for node in nodes:
                url = f"memory://{node.name}"
                await stack.enter_async_context(find_transport(url).serve(url, node.handle, Limits()))
            await stack.enter_async_context(asyncio.timeout(ENDLESS))
            return await fedws.run(
                run_dir=directory,
                workers={node.name: f"memory://{node.name}" for node in nodes},
                evaluator={},
                dataset="points",
                batch_size=8,
                max_local_batches=2,
                peer_timeout=SILENCE,
                **more,
            )

    with tempfile.TemporaryDirectory() as folder, watching() as watched:
        try:
            return virtual_loop.run_in_virtual_time(main(Path(folder) / "run")), "", watched[0]
        except fedws.RunFailed as failed:
            return None, str(failed), watched[0]


@cache
def undisturbed(name: str, workers: int, rounds: int) -> Tensors:
    result, _, _ = run(scripted([()] * workers), algorithm=name, rounds=rounds)
    assert result is not None
    return result.model


def deserved(script: Sequence[Act]) -> bool:
    """Whether a worker that acts so can have been excluded."""
    acts = [what for what, _ in script]
    # A node that breaks the protocol loses its link, and may be asked once more before that is known.
    lost = sum(what in (*THIRDS, "twice", "mix up", "garble") for what in acts)
    strikes = sum(what in STRIKES for what in acts) + lost / 3
    return "never" in acts or strikes >= 3


@every
@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), scripts=st.lists(st.lists(act, max_size=8), min_size=1, max_size=3))
def test_a_run_ends_whatever_its_workers_do(name: str, data: st.DataObject, scripts: list[list[Act]]) -> None:
    workers, rounds = len(scripts), data.draw(st.integers(1, 3), "rounds")
    more: dict[str, Any] = {"min_results": data.draw(st.integers(0, workers), "quorum")}
    has_rounds = not is_asynchronous(registry.find_piece("algorithm", name))
    if has_rounds:
        more["round_timeout"] = data.draw(st.sampled_from([2.0, 10.0, float("inf")]), "deadline")
        if data.draw(st.booleans(), "not all"):
            size = data.draw(st.integers(max(1, more["min_results"]), workers), "cohort")
            more |= {"sampler": f"random:per_round={size}", "over_selection": 1.0 if size < workers else 0.0}
    spec = "fedbuff:buffer_size=2" if name == "fedbuff" else name
    result, reason, watched = run(scripted(scripts), algorithm=spec, rounds=rounds, **more)
    if result is None:
        assert "too few workers are left for min_results" in reason and reason.isprintable()
        guilty = {WORKERS[place] for place, script in enumerate(scripts) if deserved(script)}
        assert any(worker in reason for worker in guilty), "no other worker can be excluded"
    else:
        assert find_nonfinite(result.model) == ""
        assert [record["round"] for record in result.metrics] == list(range(1, rounds + 1))
        if has_rounds and "sampler" not in more and more["min_results"] in (0, workers):
            wanted = undisturbed(name, workers, rounds)
            assert all(torch.equal(value, wanted[key]) for key, value in result.model.items())
    assert len(watched.open()) == len(set(watched.open())), "at the end, no worker has two orders"


@every
def test_a_run_over_good_workers_answers_all_its_orders(name: str) -> None:
    result, _, watched = run(scripted([()] * 3), algorithm=name, rounds=2)
    assert result is not None
    assert watched.open() == [] or is_asynchronous(registry.find_piece("algorithm", name))


def without(*acts: str) -> st.SearchStrategy[list[Act]]:
    return st.lists(act.filter(lambda it: it[0] not in acts), min_size=1, max_size=4)


GOOD = ("report", "twice")
endless = st.one_of(without(*GOOD), without(*GOOD, "never", *STRIKES), without(*GOOD, "never", "absent", *STRIKES))
"""What a worker does again and again that never gives a good report."""


@every
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(script=endless, quorum=st.sampled_from([0, 1]))
@example(script=[("close before", 0.0), ("absent", 0.0), ("absent", 0.0)], quorum=0)
def test_a_run_ends_though_a_worker_never_gives_a_good_report(name: str, script: list[Act], quorum: int) -> None:
    """It makes progress without that worker, waits for it within a bound, or ends; it does not try for ever."""
    nodes = [Node("alice", script, endless=True), Node("bob")]
    result, reason, watched = run(nodes, algorithm=name, rounds=2, min_results=quorum)
    assert reason or (result is not None and find_nonfinite(result.model) == "")
    if reason:
        assert "alice" in reason and reason.isprintable()
    asked = sum(order.worker == "alice" for order in watched.asked.values())
    # Ten lost links end a request and three such requests exclude a worker; before each it may refuse a few links.
    assert asked <= 30 and nodes[0].links <= 60 + 30 * (len(script) - 1), "a bounded number of requests and links"
