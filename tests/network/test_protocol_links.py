"""Links behave as docs/topics/protocol.md describes: findings 1, 6 and 18 to 22 of an independent worker."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

import fedws
from fedws.core.errors import RunFailed
from fedws.core.limits import DEFAULT_MESSAGE_LIMITS
from fedws.network.base import Limits
from fedws.node.dial_out import join_run
from fedws.protocol import handshake
from fedws.protocol.encoder import encode_message
from fedws.protocol.messages import (
    Challenge,
    Hello,
    Join,
    Refusal,
    TaskFailure,
    TaskRequest,
    TaskResult,
    Welcome,
    build_failure,
)
from fedws.security.credentials import INSECURE
from tests.helpers.dial_out_nodes import join, meeting
from tests.helpers.federation import settings, worker
from tests.helpers.handmade_worker import HandmadeWorker, receive, trains
from tests.helpers.keyed_runs import KEY, SECRET
from tests.helpers.manual_coordinator import HELLO, answer, data, order, rough, welcomed
from tests.helpers.protocol_page import WORDS
from tests.helpers.support import TAKEOVER
from tests.helpers.waiting import soon


async def refuses(node: HandmadeWorker, socket: ServerConnection, request: TaskRequest) -> None:
    await socket.send(data(build_failure(request, "refused", "not here", "permanent")))


async def closes(node: HandmadeWorker, socket: ServerConnection, request: TaskRequest) -> None:
    await socket.close(4000, "short of memory")


async def is_taken_over(node: HandmadeWorker, socket: ServerConnection, request: TaskRequest) -> None:
    await socket.close(4001, "taken over by the same run")


def plan(node: HandmadeWorker, folder: Path, **more: Any) -> dict[str, Any]:
    return {**settings({"alice": node.url}, rounds=1, **more), "run_dir": folder / "run", "credentials": INSECURE}


@pytest.mark.parametrize("fails", [False, True])
async def test_a_run_ends_its_links_with_the_code_1000(fails: bool, tmp_path: Path) -> None:
    """Finding 1: after a complete run, and after one that ended with an error."""
    async with HandmadeWorker(refuses if fails else trains).served() as node:
        if fails:
            with pytest.raises(RunFailed, match="not here"):
                await soon(fedws.run(**plan(node, tmp_path)))
        else:
            await soon(fedws.run(**plan(node, tmp_path)))
        await soon(node.closed.wait())
        assert node.closes == [(1000, "the coordinator ends")]
    assert "the coordinator closes every link with 1000 and `the coordinator ends`" in WORDS
    assert "after a complete run and after a run that ended with an error" in WORDS


@pytest.mark.usefixtures("nobody_has_a_key")
async def test_a_takeover_does_not_wait_for_the_closing_handshake_of_the_older_link() -> None:
    """Finding 6: the older peer never answers it."""
    async with fedws.serve(worker(), "ws://localhost:0") as url, rough(url) as older, rough(url) as newer:
        await welcomed(older)
        older.transport.pause_reading()
        began = time.monotonic()
        await welcomed(newer)
        assert time.monotonic() - began < Limits().close_timeout / 2
        older.transport.resume_reading()
    assert "It must not wait until the older link is closed, since the peer may never answer" in WORDS


@pytest.mark.usefixtures("nobody_has_a_key")
async def test_a_node_without_a_store_answers_a_failure_and_keeps_the_link() -> None:
    """Finding 18."""
    stored = encode_message(order(request_id="stored")).without_body("0" * 64, DEFAULT_MESSAGE_LIMITS)
    async with fedws.serve(worker(), "ws://localhost:0") as url, rough(url) as socket:
        await welcomed(socket)
        await socket.send(b"".join(stored.fragments()))
        failure = await answer(socket)
        assert isinstance(failure, TaskFailure) and (failure.request_id, failure.kind) == ("stored", "failed")
        await socket.send(data(order()))
        assert isinstance(await answer(socket), TaskResult)
    assert "The same applies to a receiver that has no store." in WORDS
    assert "The link stays open. A node answers `task_failure` of kind `failed`." in WORDS


async def test_the_refusal_node_comes_last_and_seldom_with_a_key() -> None:
    """Finding 19: the challenge has the node's id, and a fedws coordinator stops there."""
    hello = Hello(run="r", node="bob", protocol=1, nonce=handshake.create_nonce())
    async with fedws.serve(worker(), "ws://localhost:0", credentials=KEY) as url, rough(url) as socket:
        await socket.send(data(hello))
        challenge = await answer(socket)
        assert isinstance(challenge, Challenge) and challenge.node == "alice"
        await socket.send(data(handshake.create_proof(SECRET, hello, challenge, TAKEOVER)))
        refusal = await answer(socket)
        assert isinstance(refusal, Refusal) and refusal.kind == "node"
    async with fedws.serve(worker(), "ws://localhost:0", credentials=INSECURE) as url, rough(url) as socket:
        await socket.send(data(replace(hello, nonce="")))
        refusal = await answer(socket)
        assert isinstance(refusal, Refusal) and refusal.kind == "node"
    assert "The check of `node` is the last one before `busy`. With a network key a node seldom reaches it" in WORDS


async def test_a_joined_node_that_no_run_uses_is_closed_after_a_sixth_of_peer_timeout() -> None:
    """Finding 20."""
    async with meeting("ws://localhost:0", INSECURE, 3) as (_, url), connect(url, compression=None) as socket:
        began = time.monotonic()
        await socket.send(data(join()))
        with pytest.raises(ConnectionClosed):
            await soon(socket.recv())
        assert (socket.close_code, socket.close_reason) == (4000, "no hello in time")
        assert time.monotonic() - began < 3
    assert "the coordinator closes the link after a sixth of *peer timeout* (10 s)" in WORDS


@pytest.mark.parametrize("code", [1000, 1001, 4000, 4001, 4002, None])
async def test_a_node_in_dial_out_mode_joins_again_whatever_ended_its_link(code: int | None) -> None:
    """Findings 20 and 21: also after 4001, and also if it receives no hello at all."""
    joins: list[Join] = []
    ended: list[int | None] = []
    joined_again = asyncio.Event()

    async def handle(socket: ServerConnection) -> None:
        first = await receive(socket)
        assert isinstance(first, Join)
        joins.append(first)
        if len(joins) > 1:
            joined_again.set()
            return
        if code is None:
            with pytest.raises(ConnectionClosed):
                await socket.recv()
            ended.append(socket.close_code)
            return
        await socket.send(data(HELLO))
        assert isinstance(await receive(socket), Welcome)
        await socket.close(code, "any reason")

    async with serve(handle, "127.0.0.1", 0, compression=None) as server:
        url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        async with join_run(worker(), url, Limits(peer_timeout=0.6 if code is None else 60), INSECURE):
            await soon(joined_again.wait())
    assert len({each.instance_id for each in joins}) == 1
    assert ended == ([4000] if code is None else [])
    assert "When the link ends or is refused, the node joins again, whatever the cause." in WORDS
    assert "In fedws the node waits at most *peer timeout* (60 s) for `hello` or `refusal`" in WORDS


async def test_a_coordinator_that_receives_4001_ends_its_run(tmp_path: Path) -> None:
    """Finding 21."""
    async with HandmadeWorker(is_taken_over).served() as node:
        with pytest.raises(RunFailed, match="taken over by the same run"):
            await soon(fedws.run(**plan(node, tmp_path)))
        assert node.num_links == 1
    assert "Only a node sends 4001, and only to a coordinator. A coordinator that receives it ends its run." in WORDS


async def test_a_node_that_closes_the_link_at_every_request_is_excluded(tmp_path: Path) -> None:
    """Finding 22: it was connected without limit."""
    async with HandmadeWorker(closes).served() as node:
        with pytest.raises(RunFailed, match=r"lost 3 times while it ran fedavg\.fit"):
            await soon(fedws.run(**plan(node, tmp_path, peer_timeout=12)))
        assert node.num_links == 9
    assert "A node that closes the link at every request is therefore excluded after nine connections." in WORDS
