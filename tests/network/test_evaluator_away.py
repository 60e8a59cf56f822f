"""The evaluator comes late, leaves and comes back: no round waits for it. Whole runs, in virtual time."""

import asyncio
from pathlib import Path

import pytest

import fedws
from fedws.node.worker import Worker
from tests.helpers.federation import WORKERS
from tests.helpers.virtual_runs import ALL, DATA, ROUND, Run, in_order, there
from tests.helpers.virtual_time import virtual

pytestmark = pytest.mark.usefixtures("every_line")


def missing(run: Run) -> list[str]:
    return [text for text in run.log if text.startswith("Scores missing")]


def scores(*rounds: int) -> list[tuple[int, str]]:
    return [(round_number, model) for round_number in rounds for model in (*WORKERS, "federated")]


def assert_never_delayed(run: Run) -> None:
    """Whatever the evaluator does, a round takes as long as its workers."""
    times = [time for record, time in zip(run.records, run.times, strict=True) if record["kind"] == "round"]
    assert times == [ROUND * number for number in range(1, 7)]


@virtual
async def test_an_evaluator_that_comes_within_silence_misses_nothing(tmp_path: Path) -> None:
    async with there(*WORKERS):
        run = Run(tmp_path, nodes=ALL, evaluate_worker_models=0)
        await run.round(4)
        async with there("testing"):
            await run.task
    assert run.scored == [(round_number, "federated") for round_number in range(1, 7)]
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
        run = Run(tmp_path, nodes=ALL, peer_timeout=12)
        async with there("testing"):
            await run.score(1)
        await run.round(3)
        await asyncio.sleep(ROUND / 2)
        async with there("testing"):
            await run.task
    assert run.scored == scores(1, 4, 5, 6)
    names = ", ".join((*WORKERS, "federated"))
    why = "testing: no node serves memory://testing"
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
        run = Run(tmp_path, nodes=ALL, evaluate_worker_models=0, rounds=12)
        await run.round(11)
        async with there("testing"):
            await run.task
    assert missing(run)[:3] == [
        f"Scores missing in round {number}: federated (the evaluator is too slow)" for number in (1, 2, 3)
    ]
    assert [round_number for round_number, _ in run.scored][-8:] == list(range(5, 13))


@virtual
async def test_another_node_in_the_evaluator_s_place_costs_the_scores(tmp_path: Path) -> None:
    async with there(*WORKERS), fedws.serve(Worker("dora", "points", DATA), "memory://testing"):
        run = Run(tmp_path, nodes=ALL)
        await run.task
    assert_never_delayed(run)
    assert len(missing(run)) == 6
    assert all(text.endswith("(testing: this is dora, not testing)") for text in missing(run))
