"""Workers come late, leave and come back; some are slow. Whole runs, most of them in virtual time."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import fedws
from fedws.coordinator.driver import Driver
from fedws.protocol.messages import TaskResult
from tests.helpers.federation import WORKERS, Gate, federation, happens, worker
from tests.helpers.virtual_runs import ROUND, Run, assert_same, in_order, there
from tests.helpers.virtual_time import now, virtual

pytestmark = pytest.mark.usefixtures("every_line")


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
    where = [f"Waiting for {node} at memory://{node} (no node serves memory://{node})" for node in WORKERS]
    assert sorted(waiting) == (where if first == "run" else [])


@virtual
async def test_a_run_that_waits_in_vain_ends_and_leaves_nothing(tmp_path: Path) -> None:
    async with there("alice"):
        run = Run(tmp_path, peer_timeout=45)
        with pytest.raises(fedws.RunFailed) as failed:
            await run.task
        assert now() == 45
    away = ", ".join(f"{node} at memory://{node} (no node serves memory://{node})" for node in ("bob", "charlie"))
    assert str(failed.value) == f"not connected within 45 s: {away}"
    assert not run.directory.exists()


@virtual
async def test_a_worker_that_joins_takes_part_from_the_next_round(tmp_path: Path) -> None:
    async with there("alice", "bob"):
        run = Run(tmp_path, min_results=2)
        await run.round(2)
        assert run.times == [60 + ROUND, 60 + 2 * ROUND], "after silence the quorum was enough"
        async with there("charlie"):
            await run.task
    both, everybody = ["alice", "bob"], ["alice", "bob", "charlie"]
    assert run.rounds("cohort", "missing_workers") == [*3 * [[both, []]], *3 * [[everybody, []]]]
    in_order(run.log, "Started without charlie", "Training round 3/6", "charlie has joined", "Training round 4/6")


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
    assert [record for [record] in run.rounds("num_failures")] == [0, 0, 1, 0, 0, 0]
    assert run.rounds("cohort", "missing_workers", "num_late") == 6 * [[[*WORKERS], [], 0]]
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
            run = Run(tmp_path, peer_timeout=30)
            await run.round(1)
        since = now()
        with pytest.raises(fedws.RunFailed) as failed:
            await run.task
        assert now() == since + 30
    reason = "not connected within 30 s: bob at memory://bob (no node serves memory://bob)"
    assert str(failed.value) == reason
    assert run.log[-1] == f"Ended after round 1 of 6: {reason}"
    in_order(run.log, "bob has left: link lost: the node ends", "Waiting for bob, at most 30 s; then the run ends")
    assert (run.directory / "model.safetensors").exists()


@virtual
async def test_a_quorum_that_comes_and_goes_has_its_time_again(tmp_path: Path) -> None:
    """Away three times for less than silence, together for more."""
    async with there("alice", "charlie"):
        run = Run(tmp_path, peer_timeout=30)
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
        run = Run(tmp_path, wait_for_workers="forever")
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
            run = Run(tmp_path, min_results=2)
            await run.round(1)
            await asyncio.sleep(ROUND / 2)
        assert (await run.round(2))["missing_workers"] == ["bob"]
        assert now() == 2 * ROUND, "nobody was waited for"
        await run.round(3)
        async with there("bob"):
            await run.task
    cohorts = [cohort for [cohort] in run.rounds("cohort")]
    assert [len(cohort) for cohort in cohorts] == [3, 3, 2, 2, 3, 3]
    assert not any(text.startswith("Waiting for bob,") for text in run.log)


def slow_in(round_number: int, seconds: float, node: str = "bob") -> Callable[[TaskResult], float]:
    """Reports of that node in that round take so long, others as long as always."""
    return lambda report: seconds if (report.worker, report.round) == (node, round_number) else ROUND


@virtual
async def test_a_late_answer_is_dropped_and_counted_and_its_worker_is_asked_again(tmp_path: Path) -> None:
    async with there(*WORKERS, seconds=slow_in(2, 35)):
        run = Run(tmp_path, min_results=2, round_timeout=15)
        await run.task
    others = ["alice", "charlie"]
    assert run.rounds("cohort", "missing_workers", "num_late") == [
        [[*WORKERS], [], 0],
        [[*WORKERS], ["bob"], 0],  # closes at its deadline, 15 s
        [others, [], 0],
        [others, [], 1],  # bob's answer comes 35 s after round 2 began
        [[*WORKERS], [], 0],
        [[*WORKERS], [], 0],
    ]
    assert run.times == [10, 25, 35, 45, 55, 65]
    assert run.rounds("num_results") == [[3], [2], [2], [2], [3], [3]]
    in_order(
        run.log,
        "Training round 2/6",
        "Round 2: 2 of 3 results at the round timeout; missing: bob",
        "Training round 3/6",
    )


@virtual
async def test_without_a_quorum_at_the_deadline_the_round_stays_open(tmp_path: Path) -> None:
    async with there(*WORKERS, seconds=lambda report: 10.0 * (1 + WORKERS.index(report.worker) * 1.2)):
        run = Run(tmp_path, min_results=2, round_timeout=6)
        await run.round(1)
        run.task.cancel()
        await asyncio.gather(run.task, return_exceptions=True)
    assert run.times == [22], "its time was up, so it closes as soon as two have reported"
    deadlines = [text for text in run.log if text.startswith("Round 1: ")]
    reports = [(0, "alice, bob, charlie"), (1, "bob, charlie"), (1, "bob, charlie")]
    assert deadlines == [f"Round 1: {n} of 3 results at the round timeout; missing: {who}" for n, who in reports]


async def test_a_worker_that_is_held_up_is_left_out_until_its_late_answer_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same over sockets and in real time, with training in threads."""
    bob, alice = Gate(held=(1,)), Gate(held=(2,))
    take = Driver._handle_event

    async def watched(self: Driver[Any], before: Any, event: Any) -> Any:
        after = await take(self, before, event)
        if isinstance(event, TaskResult) and (event.worker, event.round) == ("bob", 1):
            alice.opened.set()
        return after

    def observe(record: Mapping[str, Any]) -> None:
        if record["round"] == 1:
            bob.opened.set()

    monkeypatch.setattr(Driver, "_handle_event", watched)
    async with federation(tasks={"bob": bob, "alice": alice}, nodes=WORKERS) as flags:
        flags.update(min_results=2, round_timeout=0.7, rounds=3)
        result = await fedws.run(run_dir=tmp_path / "run", observers=[observe], **flags)
    first, second, third = result.metrics
    assert (first["missing_workers"], first["num_late"]) == (["bob"], 0)
    assert (second["cohort"], second["num_late"]) == (["alice", "charlie"], 1)
    assert (third["cohort"], third["num_late"]) == ([*WORKERS], 0)


async def test_a_worker_may_be_started_anew_at_its_address(tmp_path: Path) -> None:
    """Over sockets: while it trains; the run goes on to the same model."""
    gate = Gate(held=(2,))
    async with federation(nodes=("alice", "charlie")) as flags:
        async with fedws.serve(worker("bob", gate), "ws://localhost:0") as url:
            flags["workers"]["bob"] = url
            run = asyncio.create_task(fedws.run(run_dir=tmp_path / "run", **flags))
            await happens(gate.entered)
        async with fedws.serve(worker("bob"), url):
            result = await run
            assert_same(result, await fedws.run(run_dir=tmp_path / "whole", **flags))
    assert [record["num_failures"] for record in result.metrics] == [0, 1]


@virtual
async def test_the_labels_of_a_worker_that_is_away_are_not_forgotten(tmp_path: Path) -> None:
    """They name the groups of labels in every score's line."""
    async with there("alice", "charlie", "testing"):
        async with there("bob"):
            run = Run(tmp_path, nodes=(*WORKERS, "testing"), min_results=2, evaluate_worker_models=0)
            await run.round(1)
        async with there("bob"):
            await run.task
    shares = [text for text in run.log if text.startswith("Federated model: Percentage")]
    assert len(shares) == 6
    assert all("0-3: " in text and "4-6: " in text and "7-9: " in text for text in shares)
