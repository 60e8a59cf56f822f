"""Whole runs of MistNet over sockets: features arrive once, whatever happens to nodes, links and coordinator."""

import asyncio
import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import fedws
from fedws.coordinator.run import resume_run
from fedws.coordinator.server_trainer import LENGTH_PREFIX, ServerTrainer
from fedws.coordinator.setup import prepare_run
from fedws.core.errors import RunFailed, UsageError
from fedws.core.plan import build_plan
from fedws.protocol.encoder import encode_message
from fedws.protocol.messages import TaskRequest
from fedws.recording.checkpoint import Checkpoints
from fedws.split_learning import upload_progress
from fedws.split_learning.feature_store import FeatureStore
from fedws.split_learning.wrappers.encoded_split import encoded_split
from fedws.training.model_building import build_model
from tests.helpers.federation import PATIENCE, WORKERS, Points
from tests.helpers.mistnet_nodes import CHUNKS, RECORDS, Node, Thread, federation, gathering, served
from tests.helpers.support import REPOSITORY, recorded

pytestmark = pytest.mark.usefixtures("_small_chunks")
IN_A_THREAD = pytest.mark.usefixtures("_in_a_thread")


@pytest.fixture
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_progress, "MAX_CHUNK_BYTES", 10 * RECORDS // CHUNKS)  # ten bytes a record


@pytest.fixture
def _in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator's own node, for tests that are not about its process: that takes seconds to start."""
    monkeypatch.setattr("fedws.coordinator.run.ServerTrainer", Thread)


def stored(run: Path) -> tuple[torch.Tensor, int]:
    """All features of a run, in the order of workers and records, and how many there are."""
    records = FeatureStore(run / "features").load_features()
    features = records.batch(torch.arange(len(records)))[0] if len(records) else torch.empty(0)
    return features, len(records)


def sent(nodes: Sequence[Node]) -> torch.Tensor:
    """What the nodes sent, each record once."""
    parts = [torch.cat([features for _, features in sorted(dict(node.sent).items())]) for node in nodes]
    return torch.cat(parts)


async def test_a_run_gathers_trains_and_is_scored(tmp_path: Path) -> None:
    nodes, more = {name: Node() for name in WORKERS}, {"rounds": 6, "evaluate_every": 3}
    async with asyncio.timeout(PATIENCE), federation(tmp_path, nodes, **more) as found:
        result = await fedws.run(run_dir=tmp_path / "run", **found)
    features, count = stored(tmp_path / "run")
    assert count == 3 * RECORDS and torch.equal(features, sent(list(nodes.values())))
    assert [len(node.sent) for node in nodes.values()] == [CHUNKS] * 3, "each chunk is sent once"
    rounds = recorded(tmp_path / "run", "round")
    assert [(record["num_examples"], record["num_results"]) for record in rounds] == [(360, 3)] * 6
    assert rounds[-1]["loss"] < rounds[0]["loss"]
    told = {key: rounds[-1][key] for key in ("num_features", "epsilon", "label_epsilon", "record_epsilon")}
    assert told == {"num_features": 11, "epsilon": 8.0, "label_epsilon": 4.0, "record_epsilon": 92.0}
    assert [score["round"] for score in result.evaluations()] == [1, 4, 6]
    assert {score["model"] for score in result.evaluations()} == {"federated"}, "workers have no models"
    assert set(result.model) == {"inner.weight", "inner.bias", "outer.weight", "outer.bias"}
    log = (tmp_path / "run" / "run.log").read_text()
    assert "Privacy: epsilon 8 for each of a record's 11 features" in log and "92 for the record as a whole" in log
    for name in WORKERS:
        (kept,) = [path for path in (tmp_path / name).iterdir() if path.is_dir()]
        assert not (kept / "features").exists(), "they are deleted when they have arrived"


@IN_A_THREAD
async def test_the_scored_features_are_binarised_and_have_no_noise(tmp_path: Path) -> None:
    """Of the same model, scored twice: the score does not depend on what noise would do."""
    nodes = {"alice": Node()}
    async with asyncio.timeout(PATIENCE), federation(tmp_path, nodes, rounds=1) as found:
        result = await fedws.run(run_dir=tmp_path / "run", **found)
    module = build_model("points_net", seed=0)
    module.load_state_dict(dict(result.model))
    data = Points(Path(), False)
    inputs = torch.stack([data[index][0] for index in range(len(data))])
    with torch.inference_mode():
        features = torch.relu(inputs @ result.model["inner.weight"].T + result.model["inner.bias"])
        by_hand = (features > 0).float() @ result.model["outer.weight"].T + result.model["outer.bias"]
        assert torch.equal(
            encoded_split(module, split_at="relu", encoding="bits:epsilon=8.0")(inputs).argmax(1), by_hand.argmax(1)
        )
    assert result.evaluations()[-1]["num_correct"] == int((by_hand.argmax(1) == data.targets).sum())


@IN_A_THREAD
async def test_a_node_that_was_restarted_sends_only_what_is_missing(tmp_path: Path) -> None:
    alice, bob, again = Node(stops_at=2), Node(), Node()
    async with contextlib.AsyncExitStack() as stack:
        urls = {"bob": await stack.enter_async_context(served("bob", bob, tmp_path))}
        async with served("alice", alice, tmp_path) as urls["alice"]:
            run = asyncio.create_task(fedws.run(run_dir=tmp_path / "run", **gathering(tmp_path, urls)))
            async with asyncio.timeout(PATIENCE):
                await alice.reached.wait()
        alice.sent = alice.sent[:2]  # what it was about to send had no link any more
        async with served("alice", again, tmp_path, urls["alice"]), asyncio.timeout(PATIENCE):
            await run
    assert [first for first, _ in alice.sent] == [0, 20] and [first for first, _ in again.sent] == [40, 60, 80, 100]
    features, count = stored(tmp_path / "run")
    assert count == 2 * RECORDS
    alice.sent += again.sent
    assert torch.equal(features, sent([bob, alice])), "made once, though by two processes"


@IN_A_THREAD
async def test_a_coordinator_that_was_killed_asks_only_for_what_is_missing(tmp_path: Path) -> None:
    alice = Node(stops_at=3)
    async with served("alice", alice, tmp_path) as url, asyncio.timeout(PATIENCE):
        run = asyncio.create_task(fedws.run(run_dir=tmp_path / "run", **gathering(tmp_path, {"alice": url})))
        await alice.reached.wait()
        run.cancel()
        await asyncio.wait([run])
        alice.sent, alice._stops_at = alice.sent[:3], 10**9
        await resume_run(tmp_path / "run")
    firsts = [first for first, _ in alice.sent]
    assert sorted(set(firsts)) == [0, 20, 40, 60, 80, 100] and len(firsts) <= CHUNKS + 1, "one may have been on its way"
    features, count = stored(tmp_path / "run")
    assert count == RECORDS and torch.equal(features, sent([alice]))


@IN_A_THREAD
async def test_who_is_late_takes_part_in_a_later_epoch(tmp_path: Path) -> None:
    alice, bob, late = Node(), Node(stops_at=1), Node()
    begun, whole, samples = asyncio.Event(), asyncio.Event(), []

    def observe(record: Mapping[str, Any]) -> None:
        if record["kind"] == "round":
            samples.append(record["num_examples"])
            begun.set()
            if record["num_examples"] == 2 * RECORDS:
                whole.set()

    async with asyncio.timeout(PATIENCE), contextlib.AsyncExitStack() as stack:
        urls = {"alice": await stack.enter_async_context(served("alice", alice, tmp_path))}
        async with served("bob", bob, tmp_path) as urls["bob"]:
            more: dict[str, Any] = {"min_results": 1, "round_timeout": 2.0, "rounds": 10**6}
            found = gathering(tmp_path, urls, **more)
            run = asyncio.create_task(fedws.run(run_dir=tmp_path / "run", observers=[observe], **found))
            await begun.wait()
        async with served("bob", late, tmp_path, urls["bob"]):
            await whole.wait()
        run.cancel()
        await asyncio.wait([run])
    assert samples == sorted(samples) and samples[0] < 2 * RECORDS, "what has arrived takes part"
    assert re.search(r"Upload deadline passed; incomplete: .*bob", (tmp_path / "run" / "run.log").read_text())


@IN_A_THREAD
async def test_features_that_came_for_another_run_are_not_taken(tmp_path: Path) -> None:
    """A worker whose folder was lost has none for this run, makes no new ones, and is named."""
    alice = Node(stops_at=2)
    async with served("alice", alice, tmp_path) as url:
        run = asyncio.create_task(fedws.run(run_dir=tmp_path / "run", **gathering(tmp_path, {"alice": url})))
        async with asyncio.timeout(PATIENCE):
            await alice.reached.wait()
    for path in sorted((tmp_path / "alice").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    async with served("alice", Node(), tmp_path, url), asyncio.timeout(PATIENCE):
        with pytest.raises(RunFailed, match=r"alice: refused the request: alice has no features of this run$"):
            await run
    assert stored(tmp_path / "run")[1] == 40, "what had arrived stays"


@IN_A_THREAD
@pytest.mark.parametrize(
    ("written", "by", "ends", "arrived"),
    [
        (FeatureStore, "save_chunk", lambda worker, chunk, tensors: chunk == 2, 40),
        (Checkpoints, "save", lambda number, state, extra: state.uploads["alice"].manifest != {}, 0),
    ],
    ids=["features", "checkpoint"],
)
async def test_a_full_disk_ends_a_run_that_goes_on_with_what_had_arrived(
    written: type, by: str, ends: Callable[..., bool], arrived: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a worker is told to delete is stored; and what it has made is known again, or is asked for again."""
    write, alice = getattr(written, by), Node()

    def full(self: Any, *given: Any) -> None:
        if ends(*given):
            raise RunFailed("No space left on device")
        write(self, *given)

    async with served("alice", alice, tmp_path) as url, asyncio.timeout(PATIENCE):
        with monkeypatch.context() as patch:
            patch.setattr(written, by, full)
            with pytest.raises(RunFailed, match="No space left on device"):
                await fedws.run(run_dir=tmp_path / "run", **gathering(tmp_path, {"alice": url}))
        assert stored(tmp_path / "run")[1] == arrived
        await resume_run(tmp_path / "run")
    assert stored(tmp_path / "run")[1] == RECORDS
    assert torch.equal(stored(tmp_path / "run")[0], sent([alice]))


def test_the_training_process_ends_with_who_started_it(tmp_path: Path) -> None:
    """Also in the middle of a message."""
    given = json.dumps({"algorithm": "mistnet", "plugins": [], "threads": 1, "feature_dir": str(tmp_path)})
    command = [sys.executable, "-m", "fedws.coordinator.server_trainer_main", given]
    whole = b"".join(encode_message(TaskRequest(request_id="1", worker="coordinator", round=1, task="t")).fragments())
    half = LENGTH_PREFIX.pack(len(whole)) + whole[:10]
    ended = subprocess.run(command, input=half, capture_output=True, timeout=PATIENCE, cwd=REPOSITORY)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")


def test_no_worker_is_called_as_the_node_that_trains(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'coordinator' is reserved for the server trainer of mistnet"):
        prepare_run(build_plan({**gathering(tmp_path, {"coordinator": "memory://x"}), "evaluator": {}}))


@pytest.mark.parametrize("deaths", [2, 3])
async def test_a_training_process_that_dies_is_started_again_and_the_third_death_ends_the_run(
    deaths: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, asked = ServerTrainer.execute, 0

    async def killed(self: ServerTrainer, order: TaskRequest) -> Any:
        nonlocal asked
        asked += 1
        if asked <= deaths:
            (await self._ensure_started()).kill()
        return await ask(self, order)

    async with served("alice", Node(), tmp_path) as url, asyncio.timeout(PATIENCE):
        settings = gathering(tmp_path, {"alice": url})
        with monkeypatch.context() as patch:
            patch.setattr(ServerTrainer, "execute", killed)
            if deaths < 3:
                result = await fedws.run(run_dir=tmp_path / "run", **settings)
                assert result.rounds()[-1]["round"] == settings["rounds"]
                return
            died = r"the server trainer ended with status -9 \(out of memory\?\)"
            why = rf"training on the coordinator failed: {died}, three times in a row"
            with pytest.raises(RunFailed, match=why):
                await fedws.run(run_dir=tmp_path / "run", **settings)
