"""Workers and the evaluator come late, leave and come back; some are slow. Whole runs, most of them in virtual time."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import fedws
from fedws.coordinator.drive import Driver
from fedws.interfaces import Channel, Limits
from fedws.messages import Message, Report
from fedws.service import Service, transport
from fedws.worker import Worker
from tests.nodes import HELD, WORKERS, Gate, Points, evaluating, federation, happens, settings, worker
from tests.virtual import now, virtual

DATA = Points(Path(), True)
ROUND = 10.0
"""Virtual seconds that a round takes: a worker's training."""


@contextlib.asynccontextmanager
async def there(
    *nodes: str, seconds: Callable[[Report], float] = lambda report: ROUND, scoring: float = 0.0
) -> AsyncIterator[None]:
    """These nodes are served, and their reports take so long."""
    async with contextlib.AsyncExitStack() as stack:
        for name in nodes:
            node = evaluating() if name == "testing" else Worker(name, "points", DATA, labels=HELD[name])
            service = stack.enter_context(contextlib.closing(Service(node, Limits())))
            takes = (lambda report: scoring) if name == "testing" else seconds

            async def handle(channel: Channel, service: Service = service, takes: Any = takes) -> None:
                send = channel.send

                async def taking(message: Message) -> None:
                    if isinstance(message, Report):
                        await asyncio.sleep(takes(message))
                    await send(message)

                channel.send = taking  # type: ignore[method-assign]
                await service.handle(channel)

            url = f"memory://{name}"
            await stack.enter_async_context(transport(url).serve(url, handle, Limits()))
        yield


class Run:
    """A run that is going on: its records, and when each was made."""

    def __init__(self, folder: Path, **more: Any) -> None:
        nodes = more.pop("nodes", WORKERS)
        self.records: list[Mapping[str, Any]] = []
        self.times: list[float] = []
        self.directory = folder / "run"
        self._news = asyncio.Condition()
        self._told: set[asyncio.Task[None]] = set()
        found = settings({node: f"memory://{node}" for node in nodes}, **{"training_rounds": 6, **more})
        self.task = asyncio.create_task(fedws.run(run_dir=self.directory, observers=[self._observe], **found))

    async def round(self, number: int) -> Mapping[str, Any]:
        """Wait for the record of a round."""
        return await self._find(lambda record: record["kind"] == "round" and record["round"] == number)

    async def score(self, number: int) -> Mapping[str, Any]:
        """Wait until the federated model of a round is scored."""
        return await self._find(lambda record: (record.get("model"), record["round"]) == ("federated", number))

    async def _find(self, wanted: Callable[[Mapping[str, Any]], bool]) -> Mapping[str, Any]:
        found: list[Mapping[str, Any]] = []

        def there() -> bool:
            found[:] = [record for record in self.records if wanted(record)]
            return bool(found)

        async with self._news:
            await self._news.wait_for(there)
        return found[0]

    @property
    def log(self) -> list[str]:
        """The lines of its log, without their times."""
        return [line.partition(" | ")[2] for line in (self.directory / "run.log").read_text().splitlines()]

    def rounds(self, *keys: str) -> list[Any]:
        """What the records of the rounds say."""
        return [[record[key] for key in keys] for record in self.records if record["kind"] == "round"]

    @property
    def scored(self) -> list[tuple[int, str]]:
        return [(record["round"], record["model"]) for record in self.records if record["kind"] == "score"]

    def _observe(self, record: Mapping[str, Any]) -> None:
        self.records.append(record)
        self.times.append(now())

        async def tell() -> None:
            async with self._news:
                self._news.notify_all()

        task = asyncio.create_task(tell())
        self._told.add(task)
        task.add_done_callback(self._told.discard)


def in_order(lines: Sequence[str], *wanted: str) -> None:
    """That these lines are there, in this order."""
    places = [lines.index(text) for text in wanted]
    assert places == sorted(places), [lines[place] for place in places]


def assert_same(result: fedws.Result, other: fedws.Result) -> None:
    assert result.model.keys() == other.model.keys()
    assert all(torch.equal(result.model[name], value) for name, value in other.model.items())


@pytest.fixture(autouse=True)
def _every_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fedws")


# --------------------------------------------------------------------------- the first cohort


@pytest.mark.parametrize("first", ["nodes", "run"])
@virtual
async def test_nodes_and_run_start_in_any_order(tmp_path: Path, first: str, caplog: pytest.LogCaptureFixture) -> None:
    async with contextlib.AsyncExitStack() as stack:
        if first == "nodes":
            await stack.enter_async_context(there(*WORKERS))
        run = Run(tmp_path)
        await asyncio.sleep(1)
        if first == "run":
            await stack.enter_async_context(there("charlie"))
            await asyncio.sleep(20)
            await stack.enter_async_context(there("alice", "bob"))
        await run.task
    assert run.rounds("cohort") == 6 * [[[*WORKERS]]]
    waiting = [text for text in caplog.messages if text.startswith("Waiting")]
    where = [f"Waiting for {node} at memory://{node} (nobody serves memory://{node})" for node in WORKERS]
    assert sorted(waiting) == (where if first == "run" else [])


@virtual
async def test_a_run_that_waits_in_vain_ends_and_leaves_nothing(tmp_path: Path) -> None:
    async with there("alice"):
        run = Run(tmp_path, silence=45)
        with pytest.raises(fedws.RunFailed) as failed:
            await run.task
        assert now() == 45
    away = ", ".join(f"{node} at memory://{node} (nobody serves memory://{node})" for node in ("bob", "charlie"))
    assert str(failed.value) == f"waited 45 s in vain for {away}"
    assert not run.directory.exists()


@virtual
async def test_a_worker_that_joins_takes_part_from_the_next_round(tmp_path: Path) -> None:
    async with there("alice", "bob"):
        run = Run(tmp_path, quorum=2)
        await run.round(2)
        assert run.times == [60 + ROUND, 60 + 2 * ROUND], "after silence the quorum was enough"
        async with there("charlie"):
            await run.task
    both, all = ["alice", "bob"], ["alice", "bob", "charlie"]
    assert run.rounds("cohort", "missing") == [*3 * [[both, []]], *3 * [[all, []]]]
    in_order(run.log, "Beginning without charlie", "Training round 3/6", "charlie has joined", "Training round 4/6")


# --------------------------------------------------------------------------- workers


@virtual
async def test_a_worker_that_leaves_and_comes_back_leaves_no_trace_in_the_model(tmp_path: Path) -> None:
    """It is asked again for what it was working on, with the same seed."""
    async with there(*WORKERS):
        whole = await Run(tmp_path / "whole").task
    async with there("alice", "charlie"):
        async with there("bob"):
            run = Run(tmp_path)
            await run.round(2)
            await asyncio.sleep(ROUND / 2)
        await asyncio.sleep(50)
        async with there("bob"):
            assert_same(await run.task, whole)
    assert [record for [record] in run.rounds("failed")] == [0, 0, 1, 0, 0, 0]
    assert run.rounds("cohort", "missing", "late") == 6 * [[[*WORKERS], [], 0]]
    in_order(
        run.log,
        "Training round 3/6",
        "bob has left: link lost: the node ends",
        "Waiting for bob, at most 60 s; then the run ends",
        "bob has joined",
        "Training round 4/6",
    )


@virtual
async def test_a_lost_quorum_is_waited_for_silence_seconds(tmp_path: Path) -> None:
    async with there("alice", "charlie"):
        async with there("bob"):
            run = Run(tmp_path, silence=30)
            await run.round(1)
        since = now()
        with pytest.raises(fedws.RunFailed) as failed:
            await run.task
        assert now() == since + 30
    reason = "waited 30 s in vain for bob at memory://bob (nobody serves memory://bob)"
    assert str(failed.value) == reason
    assert run.log[-1] == f"Ended after round 1 of 6: {reason}"
    in_order(run.log, "bob has left: link lost: the node ends", "Waiting for bob, at most 30 s; then the run ends")
    assert (run.directory / "model.safetensors").exists()


@virtual
async def test_a_quorum_that_comes_and_goes_has_its_time_again(tmp_path: Path) -> None:
    """Away three times for less than silence, together for more."""
    async with there("alice", "charlie"):
        run = Run(tmp_path, silence=30)
        for number in (1, 2, 3):
            async with there("bob"):
                await run.round(number)
            await asyncio.sleep(25)
        async with there("bob"):
            await run.task
    assert run.log.count("Waiting for bob, at most 30 s; then the run ends") == 3


@virtual
async def test_a_run_may_wait_for_ever(tmp_path: Path) -> None:
    async with there(*WORKERS):
        whole = await Run(tmp_path / "whole").task
    async with there("alice", "charlie"):
        run = Run(tmp_path, wait="forever")
        await asyncio.sleep(5_000)
        async with there("bob"):
            await run.round(1)
        await asyncio.sleep(5_000)
        async with there("bob"):
            assert_same(await run.task, whole)
    assert "Waiting for bob" in run.log


@virtual
async def test_with_a_quorum_left_a_round_closes_without_who_has_gone(tmp_path: Path) -> None:
    async with there("alice", "charlie"):
        async with there("bob"):
            run = Run(tmp_path, quorum=2)
            await run.round(1)
            await asyncio.sleep(ROUND / 2)
        assert (await run.round(2))["missing"] == ["bob"]
        assert now() == 2 * ROUND, "nobody was waited for"
        await run.round(3)
        async with there("bob"):
            await run.task
    cohorts = [cohort for [cohort] in run.rounds("cohort")]
    assert [len(cohort) for cohort in cohorts] == [3, 3, 2, 2, 3, 3]
    assert not any(text.startswith("Waiting for bob,") for text in run.log)


def slow_in(round: int, seconds: float, node: str = "bob") -> Callable[[Report], float]:
    """Reports of that node in that round take so long, others as long as always."""
    return lambda report: seconds if (report.worker, report.round) == (node, round) else ROUND


@virtual
async def test_a_late_answer_is_dropped_and_counted_and_its_worker_is_asked_again(tmp_path: Path) -> None:
    async with there(*WORKERS, seconds=slow_in(2, 35)):
        run = Run(tmp_path, quorum=2, deadline=15)
        await run.task
    others = ["alice", "charlie"]
    assert run.rounds("cohort", "missing", "late") == [
        [[*WORKERS], [], 0],
        [[*WORKERS], ["bob"], 0],  # closes at its deadline, 15 s
        [others, [], 0],
        [others, [], 1],  # bob's answer comes 35 s after round 2 began
        [[*WORKERS], [], 0],
        [[*WORKERS], [], 0],
    ]
    assert run.times == [10, 25, 35, 45, 55, 65]
    assert run.rounds("answered") == [[3], [2], [2], [2], [3], [3]]
    in_order(
        run.log, "Training round 2/6", "Round 2: 2 of 3 reports at the deadline; missing: bob", "Training round 3/6"
    )


@virtual
async def test_without_a_quorum_at_the_deadline_the_round_stays_open(tmp_path: Path) -> None:
    async with there(*WORKERS, seconds=lambda report: 10.0 * (1 + WORKERS.index(report.worker) * 1.2)):
        run = Run(tmp_path, quorum=2, deadline=6)
        await run.round(1)
        run.task.cancel()
        await asyncio.gather(run.task, return_exceptions=True)
    assert run.times == [22], "its time was up, so it closes as soon as two have reported"
    deadlines = [text for text in run.log if text.startswith("Round 1: ")]
    reports = [(0, "alice, bob, charlie"), (1, "bob, charlie"), (1, "bob, charlie")]
    assert deadlines == [f"Round 1: {n} of 3 reports at the deadline; missing: {who}" for n, who in reports]


async def test_a_worker_that_is_held_up_is_left_out_until_its_late_answer_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same over sockets and in real time, with training in threads."""
    bob, alice = Gate(held=(1,)), Gate(held=(2,))
    take = Driver._take

    async def watched(self: Driver[Any], before: Any, event: Any) -> Any:
        after = await take(self, before, event)
        if isinstance(event, Report) and (event.worker, event.round) == ("bob", 1):
            alice.opened.set()
        return after

    def observe(record: Mapping[str, Any]) -> None:
        if record["round"] == 1:
            bob.opened.set()

    monkeypatch.setattr(Driver, "_take", watched)
    async with federation(tasks={"bob": bob, "alice": alice}, nodes=WORKERS) as flags:
        flags.update(quorum=2, deadline=0.7, training_rounds=3)
        result = await fedws.run(run_dir=tmp_path / "run", observers=[observe], **flags)
    first, second, third = result.metrics
    assert (first["missing"], first["late"]) == (["bob"], 0)
    assert (second["cohort"], second["late"]) == (["alice", "charlie"], 1)
    assert (third["cohort"], third["late"]) == ([*WORKERS], 0)


async def test_a_worker_may_be_started_anew_at_its_address(tmp_path: Path) -> None:
    """Over sockets: while it trains; the run goes on to the same model."""
    gate = Gate(held=(2,))
    async with federation(nodes=("alice", "charlie")) as flags:
        async with fedws.serving(worker("bob", gate), "ws://localhost:0") as url:
            flags["workers"]["bob"] = url
            run = asyncio.create_task(fedws.run(run_dir=tmp_path / "run", **flags))
            await happens(gate.entered)
        async with fedws.serving(worker("bob"), url):
            result = await run
            assert_same(result, await fedws.run(run_dir=tmp_path / "whole", **flags))
    assert [record["failed"] for record in result.metrics] == [0, 1]


@virtual
async def test_the_labels_of_a_worker_that_is_away_are_not_forgotten(tmp_path: Path) -> None:
    """They name the groups of labels in every score's line."""
    async with there("alice", "charlie", "testing"):
        async with there("bob"):
            run = Run(tmp_path, nodes=(*WORKERS, "testing"), quorum=2, score_workers=0)
            await run.round(1)
        async with there("bob"):
            await run.task
    shares = [text for text in run.log if text.startswith("Federated model: Percentage")]
    assert len(shares) == 6
    assert all("0-3: " in text and "4-6: " in text and "7-9: " in text for text in shares)


# --------------------------------------------------------------------------- the evaluator


ALL = (*WORKERS, "testing")


def missing(run: Run) -> list[str]:
    return [text for text in run.log if text.startswith("Scores missing")]


def scores(*rounds: int) -> list[tuple[int, str]]:
    return [(round, model) for round in rounds for model in (*WORKERS, "federated")]


def assert_never_delayed(run: Run) -> None:
    """Whatever the evaluator does, a round takes as long as its workers."""
    times = [time for record, time in zip(run.records, run.times, strict=True) if record["kind"] == "round"]
    assert times == [ROUND * number for number in range(1, 7)]


@virtual
async def test_an_evaluator_that_comes_within_silence_misses_nothing(tmp_path: Path) -> None:
    async with there(*WORKERS):
        run = Run(tmp_path, nodes=ALL, score_workers=0)
        await run.round(4)
        async with there("testing"):
            await run.task
    assert run.scored == [(round, "federated") for round in range(1, 7)]
    assert not missing(run)
    assert_never_delayed(run)


@virtual
async def test_an_evaluator_may_leave_and_come_back_in_the_middle_of_a_score(tmp_path: Path) -> None:
    """Each model is scored once."""
    async with there(*WORKERS):
        run = Run(tmp_path, nodes=ALL)
        for number in range(1, 6):
            async with there("testing"):
                await run.score(number)
        async with there("testing"):
            await run.task
    assert run.scored == scores(*range(1, 7))
    assert not missing(run)
    assert_never_delayed(run)


@virtual
async def test_scores_that_cannot_be_had_within_silence_are_missing_and_later_ones_are_not(tmp_path: Path) -> None:
    async with there(*WORKERS):
        run = Run(tmp_path, nodes=ALL, silence=12)
        async with there("testing"):
            await run.score(1)
        await run.round(3)
        await asyncio.sleep(ROUND / 2)
        async with there("testing"):
            await run.task
    assert run.scored == scores(1, 4, 5, 6)
    names = ", ".join((*WORKERS, "federated"))
    why = "testing: nobody serves memory://testing"
    assert missing(run) == [f"Scores missing in round {number}: {names} ({why})" for number in (2, 3)]
    in_order(run.log, missing(run)[0], "Training round 3/6", missing(run)[1], "Training round 4/6")
    assert_never_delayed(run)


@virtual
async def test_an_evaluator_that_never_comes_costs_all_scores_and_no_round(tmp_path: Path) -> None:
    async with there(*WORKERS):
        run = Run(tmp_path, nodes=ALL)
        result = await run.task
    assert_never_delayed(run)
    assert result.accuracy is None
    assert len(missing(run)) == 6


@virtual
async def test_the_last_model_of_a_round_may_be_given_up_while_the_evaluator_is_away(tmp_path: Path) -> None:
    """More rounds than models may wait: the federated ones of the oldest rounds go, the newest are scored."""
    async with there(*WORKERS, seconds=lambda report: 1.0):
        run = Run(tmp_path, nodes=ALL, score_workers=0, training_rounds=12)
        await run.round(11)
        async with there("testing"):
            await run.task
    assert missing(run)[:3] == [
        f"Scores missing in round {number}: federated (the evaluator is too slow)" for number in (1, 2, 3)
    ]
    assert [round for round, _ in run.scored][-8:] == list(range(5, 13))


@virtual
async def test_another_node_in_the_evaluator_s_place_costs_the_scores(tmp_path: Path) -> None:
    async with there(*WORKERS), fedws.serving(Worker("dora", "points", []), "memory://testing"):
        run = Run(tmp_path, nodes=ALL)
        await run.task
    assert_never_delayed(run)
    assert len(missing(run)) == 6
    assert all(text.endswith("(testing: this is dora, not testing)") for text in missing(run))
