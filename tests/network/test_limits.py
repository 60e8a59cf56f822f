"""Messages that the other side does not accept: nothing is sent, and one line names the node and both numbers."""

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

import fedws
from fedws.core.limits import CHUNK_BYTES
from fedws.protocol.encoder import encode_message
from fedws.protocol.messages import Hello, TaskFailure, TaskRequest, TaskResult
from tests.helpers.federation import evaluating, worker
from tests.helpers.scripted_node import JOINED, WELCOME, Heard, Part, Peer, asked
from tests.helpers.support import recorded
from tests.helpers.virtual_time import now, virtual

SMALL = 2**20
"""Bytes that a side accepts; a model of mnist_cnn has 1.7 MB."""
TOO_LARGE = (
    r"1,7\d\d,\d\d\d bytes, which exceeds {}'s limit of 1,048,576 bytes; start {} with --max-message-bytes 2097152"
)


@pytest.fixture(autouse=True)
def _every_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fedws")


@contextlib.asynccontextmanager
async def served(shelf: Any = None, **limits: int) -> AsyncIterator[dict[str, Any]]:
    """alice and bob with an evaluator, each with its own limit in bytes."""
    async with contextlib.AsyncExitStack() as stack:

        async def serve(node: fedws.Worker) -> str:
            accepts = fedws.Limits(limits.get(node.node, 2**30))
            return await stack.enter_async_context(fedws.serve(node, "ws://localhost:0", accepts, body_store=shelf))

        urls = {name: await serve(worker(name, returns)) for name in ("alice", "bob")}
        settings = {"workers": urls, "evaluator": {"testing": await serve(evaluating(scores))}}
        yield {**settings, "dataset": "points", "model": "mnist_cnn", "rounds": 2, "evaluate_every": 1}


def returns(order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
    """The model as it is: no training on samples that would not fit it."""
    return workspace.build_result(order, {"loss": 1.0, "num_examples": 120}, order.tensors)


def scores(order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
    return workspace.build_result(order, {"num_examples": 120, "loss": 1.0})


@pytest.mark.parametrize("stored", [False, True])
async def test_a_worker_that_accepts_less_than_the_model_is_excluded_at_once(
    stored: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the model would go through an object store: it would not be accepted from there either."""
    (tmp_path / "store").mkdir()
    shelf = fedws.open_store(f"file://{tmp_path}/store", min_bytes=1000) if stored else None
    async with served(shelf, bob=SMALL) as settings:
        with pytest.raises(fedws.RunFailed) as ended:
            await fedws.run(run_dir=tmp_path / "all", body_store=shelf, **settings)
        result = await fedws.run(run_dir=tmp_path / "one", body_store=shelf, min_results=1, **settings)
    why = f"the request has {TOO_LARGE.format('bob', 'bob')}"
    few = "round 1: too few workers are left for min_results 2: bob: cannot receive the request: "
    assert _fits(f"{few}{why}", str(ended.value))
    assert len(result.evaluations()) == 2
    lines = [line for line in caplog.messages if line.startswith("bob is excluded: ")]
    assert len(lines) == 2, "once a run"
    assert not [line for line in caplog.messages if "has left" in line], "the link is not lost"


async def test_a_coordinator_that_accepts_less_than_a_report_ends_the_run_with_the_reason(tmp_path: Path) -> None:
    async with served() as settings:
        with pytest.raises(fedws.RunFailed) as ended:
            await fedws.run(run_dir=tmp_path / "run", max_message_bytes=SMALL, **settings)
    why = f"refused the request: the result has {TOO_LARGE.format('the coordinator', 'the coordinator')}"
    assert _fits(rf"round 1: too few workers are left for min_results 2: \w+: {why}.*", str(ended.value))


async def test_an_evaluator_that_accepts_less_than_the_model_costs_all_scores_and_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(testing=SMALL) as settings:
        await fedws.run(run_dir=tmp_path / "run", **settings)
    missing = [line for line in caplog.messages if line.startswith("Scores missing")]
    why = f"the request has {TOO_LARGE.format('testing', 'testing')}"
    assert len(missing) == 1 and _fits(rf"Scores missing in round 1: alice \({why}\); .*", missing[0])
    assert "testing: it is excluded: the request has 1,7" in missing[0]
    assert [record["kind"] for record in recorded(tmp_path / "run")] == ["round", "round"]
    assert not list((tmp_path / "run").glob("pending_evaluations/*")), "no model waits for a score"


async def test_a_caller_that_accepts_less_than_a_welcome_reads_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small(**fields: Any) -> Hello:
        return Hello(**{**fields, "max_message_bytes": 100})

    monkeypatch.setattr("fedws.coordinator.handshake.Hello", small)
    why = r"the welcome has \d+ bytes, which exceeds the coordinator's limit of 100 bytes; start the coordinator with "
    async with served() as settings:
        alice = {"workers": {"alice": settings["workers"]["alice"]}, "evaluator": {}, "peer_timeout": 1.5}
        with pytest.raises(fedws.RunFailed, match=why):
            await fedws.run(run_dir=tmp_path / "run", **{**settings, **alice})


def _fits(pattern: str, text: str) -> bool:
    return re.fullmatch(pattern, text) is not None


# --------------------------------------------------------------------------- links that are lost with a request


def closes_after(pieces: int) -> Part:
    """Welcome the run, take so many pieces of the next order, and close."""

    async def part(peer: Peer, channel: Any) -> None:
        await peer.welcomes(channel)
        with contextlib.suppress(asyncio.QueueEmpty):
            for _ in range(pieces):
                await channel._next_fragment()
        await channel.close("short of memory")

    return part


@virtual
async def test_a_node_that_closes_the_link_at_each_order_is_dialled_with_ever_longer_pauses() -> None:
    """Seen: 182 connections in 35 seconds, for what was sent counted as progress."""
    peer = Peer(closes_after(1))
    async with peer.served(), Heard() as heard:
        while now() < 60:
            event = await heard.next()
            if event == JOINED:
                await heard.give(asked())
    assert len(peer.dialled) < 25
    losses = [event for event in heard.all if isinstance(event, TaskFailure)]
    assert losses and {(loss.kind, loss.code) for loss in losses} == {("lost", "")}


@virtual
async def test_a_loss_after_progress_says_so_and_the_next_dial_comes_soon() -> None:
    """The node states on the next link how much of the order it has."""
    order = _large()

    def holds(chunks: int) -> Part:
        async def part(peer: Peer, channel: Any) -> None:
            digest = peer.digest  # type: ignore[attr-defined]
            await channel.send(_welcome({digest: chunks * CHUNK_BYTES} if chunks else {}))
            await channel._next_fragment()
            await channel.close("cut")

        return part

    script: Sequence[int] = (0, 1, 1, 3, 2, 3)
    peer = Peer(*(holds(chunks) for chunks in script), Peer.stays)
    peer.digest = _digest(order)  # type: ignore[attr-defined]
    async with peer.served(), Heard() as heard:
        for _ in script:
            while await heard.next() != JOINED:
                pass
            await heard.give(order)
        while sum(isinstance(event, TaskFailure) for event in heard.all) < len(script):
            await heard.next()
    codes = [event.code for event in heard.all if isinstance(event, TaskFailure)]
    assert codes == ["", "transfer_progressed", "", "transfer_progressed", "", ""]


def _large() -> TaskRequest:
    return TaskRequest(
        request_id="1/alice", worker="alice", round=1, task="t", tensors={"w": torch.arange(10.0 * 2**18)}
    )


def _digest(order: TaskRequest) -> str:
    return sha256(b"".join(encode_message(order).body)).hexdigest()


def _welcome(held: dict[str, int]) -> Any:
    return replace(WELCOME, resume_offsets=held)


@virtual
async def test_a_wait_that_a_node_states_is_bounded() -> None:
    async def waits(peer: Peer, channel: Any) -> None:
        await peer.welcomes(channel)
        for seconds in (0.0, 60.0, 1e300):
            order = await channel.receive()
            head = {"request_id": order.request_id, "worker": "alice", "round": order.round}
            await channel.send(
                TaskFailure(**head, kind="refused", reason="later", code="retry_later", retry_after=seconds)
            )
        order = await channel.receive()
        head = {"request_id": order.request_id, "worker": "alice", "round": order.round}
        await channel.send(TaskFailure(**head, kind="failed", reason="no", code="transfer_progressed", retry_after=5.0))
        await peer.reads(channel)

    async with Peer(waits).served(), Heard() as heard:
        assert await heard.next() == JOINED
        found = []
        for round_number in (1, 2, 3, 4):
            answer = await heard.link.execute(asked(round_number=round_number))
            assert isinstance(answer, TaskFailure)
            found.append((answer.kind, answer.code, answer.retry_after))
    day = 25 * 3600.0
    refused = [("refused", "retry_later", 1.0), ("refused", "retry_later", 60.0), ("refused", "retry_later", day)]
    assert found == [*refused, ("failed", "", 0.0)], "and only the coordinator states progress"
