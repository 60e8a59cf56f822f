"""A run that continues with more rounds, also one that has finished, or with other workers. Mostly in virtual time."""

import asyncio
import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import fedws
from fedws.coordinator.starting_point import WORKERS_CHANGED
from fedws.privacy.policy import Policy
from tests.helpers.federation import WORKERS, settings
from tests.helpers.mistnet_nodes import Thread
from tests.helpers.resumed_runs import log, plan, records, stopped
from tests.helpers.support import recorded
from tests.helpers.virtual_runs import ALL, DATA, ROUND, assert_same, there
from tests.helpers.virtual_time import virtual

pytestmark = pytest.mark.usefixtures("every_line")

HOW: dict[str, dict[str, Any]] = {
    "fedavg": {"sampler": "random:per_round=2"},
    "fedsgd": {"algorithm": "fedsgd", "optimizer": "adam"},
    "fedbuff": {"algorithm": "fedbuff:buffer_size=2", "nodes": ("alice", "testing")},
    "without an evaluator": {"nodes": WORKERS, "weight_by_samples": True},
}


# --------------------------------------------------------------------------- more rounds


@pytest.mark.parametrize("name", HOW)
@virtual
async def test_a_finished_run_continues_as_if_it_had_had_more_rounds_at_once(tmp_path: Path, name: str) -> None:
    """But for the scores of the round that was the last. Nothing that was written is written again."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    async with there(*ALL, scoring=ROUND / 2):
        wanted = await fedws.run(run_dir=whole, **plan(**HOW[name], rounds=8))
        await fedws.run(run_dir=run, **plan(**HOW[name]))
        written = [(run / file).read_bytes() for file in ("run.log", "metrics.jsonl")]
        result = await fedws.run(resume=run, rounds=8)
    assert_same(result, wanted)
    rounds, scores = records(run)
    assert rounds == records(whole)[0] and len(rounds) == 8
    assert [score for score in scores if score["round"] != 4] == records(whole)[1]
    for file, old in zip(("run.log", "metrics.jsonl"), written, strict=True):
        assert (run / file).read_bytes().startswith(old)
    assert WORKERS_CHANGED not in log(run)
    assert json.loads((run / "run.json").read_text())["finished"] is True
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["checkpoint-000008.safetensors"]


async def test_the_coordinator_trains_on_for_more_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the features that are stored: the workers are not asked for them again. A worker that is added is."""
    monkeypatch.setattr("fedws.coordinator.run.ServerTrainer", Thread)
    policy = Policy(encodings=("bits_without_noise",), labels="clear", max_uploads=2)
    how = "mistnet:split_at=relu,public_dataset=points,pretrain_epochs=1,encoding=bits_without_noise,labels=clear"
    async with contextlib.AsyncExitStack() as stack:
        urls = {}
        for name in WORKERS:
            node = fedws.Worker(name, "points", DATA, labels=[], policy=policy, state_dir=tmp_path / name)
            urls[name] = await stack.enter_async_context(fedws.serve(node, f"memory://{name}"))
        two = {name: urls[name] for name in WORKERS[:2]}
        found = settings(two, algorithm=how, model="points_net")
        wanted = await fedws.run(run_dir=tmp_path / "whole", **found | {"rounds": 4})
        await fedws.run(run_dir=tmp_path / "run", **found)
        features = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "features").iterdir()}
        assert_same(await fedws.run(resume=tmp_path / "run", rounds=4), wanted)
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "features").iterdir()} == features
        with pytest.raises(fedws.UsageError) as caught:
            await fedws.run(resume=tmp_path / "run", rounds=6, workers={"charlie": urls["charlie"]})
        assert str(caught.value) == (
            f"--resume {tmp_path / 'run'}: workers of {how} can be added but not removed; add alice, bob to the workers"
        )
        result = await fedws.run(resume=tmp_path / "run", rounds=20, workers=urls)
    assert result.rounds()[-1]["num_results"] == 3 and result.rounds()[-1]["num_examples"] == 3 * len(DATA)
    stored = {path.name.split("-")[0] for path in (tmp_path / "run" / "features").iterdir()}
    assert (
        stored == {"0", "1", "2"}
        and features.items()
        <= {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "features").iterdir()}.items()
    )


@virtual
async def test_the_last_line_of_a_finished_run_is_not_said_again(tmp_path: Path) -> None:
    late = lambda report: 35.0 if (report.worker, report.round) == ("bob", 4) else ROUND  # noqa: E731
    async with there(*WORKERS, seconds=late):
        await fedws.run(run_dir=tmp_path / "run", **plan(nodes=WORKERS, min_results=2, round_timeout=15))
        await fedws.run(resume=tmp_path / "run", rounds=5)
    closed = "Round 4: 2 of 3 results at the round timeout; missing: bob"
    assert [line for line in log(tmp_path / "run") if line.startswith("Round ")] == [closed]


@pytest.mark.parametrize("rounds", [3, 4, 6])
@virtual
async def test_a_run_that_was_stopped_continues_to_another_last_round(tmp_path: Path, rounds: int) -> None:
    async with there(*ALL):
        wanted = await fedws.run(run_dir=tmp_path / "whole", **plan(rounds=rounds))
        await stopped(tmp_path / "run", lambda record: (record["kind"], record["round"]) == ("round", 2))
        result = await fedws.run(resume=tmp_path / "run", rounds=rounds)
    assert_same(result, wanted)
    assert records(tmp_path / "run") == records(tmp_path / "whole")


@virtual
async def test_fewer_rounds_than_are_complete_cannot_be(tmp_path: Path) -> None:
    async with there(*ALL):
        await stopped(tmp_path / "stopped", lambda record: (record["kind"], record["round"]) == ("round", 2))
        await fedws.run(run_dir=tmp_path / "finished", **plan())
    for name, complete in (("stopped", 2), ("finished", 4)):
        before = {path: path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()}
        with pytest.raises(fedws.UsageError) as caught:
            await fedws.run(resume=tmp_path / name, rounds=1)
        few = f"rounds 1 is less than the {complete} completed rounds; set it to at least {complete}"
        assert str(caught.value) == f"--resume {tmp_path / name}: {few}"
        assert {path: path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()} == before


@virtual
async def test_a_finished_run_without_a_checkpoint_says_how_to_start_from_its_model(tmp_path: Path) -> None:
    """As those of older versions. Its model can be the beginning of another run."""
    run = tmp_path / "run"
    async with there(*ALL):
        first = await fedws.run(run_dir=run, **plan())
        shutil.rmtree(run / "checkpoints")
        with pytest.raises(fedws.UsageError) as caught:
            await fedws.run(resume=run, rounds=5)
        model = run / "model.safetensors"
        how = f"checkpoint not found; start a new run with --initial-model {model}"
        assert str(caught.value) == f"--resume {run}: {how}"
        assert (await fedws.run(resume=run)).metrics == first.metrics
        with pytest.raises(fedws.UsageError, match="the 4 completed rounds"):
            await fedws.run(resume=run, rounds=3)


# --------------------------------------------------------------------------- other workers


def cohorts(run: Path) -> list[set[str]]:
    return [set(record["cohort"]) for record in recorded(run, "round")]


def url(*names: str) -> dict[str, str]:
    return {name: f"memory://{name}" for name in names}


@virtual
async def test_a_run_continues_with_other_workers_and_says_what_that_means(tmp_path: Path) -> None:
    """Stopped while both worked on round 3, which is asked anew of those who are in the plan then."""
    run, two, other = tmp_path / "run", url("alice", "bob"), url("bob", "charlie")
    async with there(*ALL):
        await stopped(
            run, lambda record: (record["kind"], record["round"]) == ("round", 2), nodes=("alice", "bob", "testing")
        )
        result = await fedws.run(resume=run, workers=other, peer_timeout=5.0)
        assert cohorts(run) == [set(two), set(two), set(other), set(other)]
        assert [line for line in log(run) if line == WORKERS_CHANGED] == [WORKERS_CHANGED]
        assert set(json.loads((run / "worker_labels.json").read_text())) == set(other)
        scores = [record for record in result.metrics if record["kind"] == "evaluation" and record["round"] == 3]
        assert {score["model"] for score in scores} == {
            "bob", "charlie", "federated",
        }  # fmt: skip
        await fedws.run(resume=run, rounds=5)
        assert [line for line in log(run) if line == WORKERS_CHANGED] == [WORKERS_CHANGED, WORKERS_CHANGED], (
            "it stays so"
        )
        assert cohorts(run)[4:] == [set(other)]


@pytest.mark.parametrize("strategy", ["fedasync", "fedbuff:buffer_size=2"])
@virtual
async def test_without_rounds_too(tmp_path: Path, strategy: str) -> None:
    run, speed = tmp_path / "run", {"alice": 7.0, "bob": 11.0, "charlie": 13.0}
    async with there(*ALL, seconds=lambda report: speed[report.worker]):
        await fedws.run(run_dir=run, **plan(algorithm=strategy, nodes=("alice", "bob", "testing")))
        await fedws.run(resume=run, workers=url("bob", "charlie"), rounds=10)
    workers = [{update["worker"] for update in record["updates"]} for record in recorded(run, "round")]
    assert set.union(*workers[:4]) == {"alice", "bob"} and set.union(*workers[4:]) == {"bob", "charlie"}
    assert WORKERS_CHANGED in log(run)


@virtual
async def test_workers_that_never_came_do_not_count(tmp_path: Path) -> None:
    """A name that was mistyped, and then put right: the result is that of an uninterrupted run."""
    run = tmp_path / "run"
    async with there(*ALL):
        wanted = await fedws.run(run_dir=tmp_path / "whole", **plan())
        await stopped(run, lambda record: (record["kind"], record["round"]) == ("round", 3))
        with pytest.raises(fedws.RunFailed, match="s: charly"):
            await fedws.run(resume=run, workers=url("alice", "bob", "charly"), peer_timeout=1.0)
        result = await fedws.run(resume=run, workers=url("charlie", "alice", "bob"))
    assert_same(result, wanted)
    assert WORKERS_CHANGED not in log(run) and records(run) == records(tmp_path / "whole")


@virtual
async def test_the_plan_must_hold_with_the_workers_that_it_has_now(tmp_path: Path) -> None:
    async with there(*ALL):
        await fedws.run(run_dir=tmp_path / "run", **plan(sampler="random:per_round=3", min_results=3))
    before = (tmp_path / "run" / "run.json").read_text()
    with pytest.raises(fedws.UsageError) as caught:
        await fedws.run(resume=tmp_path / "run", rounds=5, workers=url("alice", "bob"))
    assert str(caught.value) == "--min-results 3 exceeds the number of workers, 2"
    assert (tmp_path / "run" / "run.json").read_text() == before


@virtual
async def test_an_added_worker_is_waited_for_as_any_other(tmp_path: Path) -> None:
    run = tmp_path / "run"
    async with there("alice", "bob", "testing"):
        await fedws.run(run_dir=run, **plan(nodes=("alice", "bob", "testing")))
        going = asyncio.create_task(fedws.run(resume=run, rounds=5, workers=url(*WORKERS)))
        await asyncio.sleep(ROUND)
        async with there("charlie"):
            await going
    assert cohorts(run) == [{"alice", "bob"}] * 4 + [set(WORKERS)]
