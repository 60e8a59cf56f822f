"""Answers that weigh more than their requests can produce: no memory is taken for them, on any transport."""

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import fedws
from fedws.core import registry
from fedws.core.errors import LinkError
from fedws.network.base import Channel, Limits
from fedws.object_store.backends.file import FileStore
from fedws.object_store.base import BodyStore
from fedws.protocol.messages import TaskFailure, TaskRequest, TaskResult
from fedws.security.credentials import INSECURE
from tests.helpers.federation import PATIENCE, evaluating, settings, worker
from tests.helpers.mosquitto import MISSING, PASSWORD, PROGRAM, mosquitto
from tests.helpers.scripted_node import JOINED, WELCOME, Heard, asked, reported
from tests.helpers.support import require

HEAVY = {"w": torch.zeros(3 * 2**18)}
"""3 MiB, where 4,000 bytes were asked for."""
REFUSED = (
    r"broke the protocol: message 'task_result' of 3,145,\d\d\d bytes exceeds "
    r"the limit of 1,052,576 bytes for the open requests"
)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    require(PROGRAM, MISSING)
    with mosquitto(tmp_path_factory.mktemp("broker")) as real:
        yield real.url


@pytest.fixture(params=["memory", "ws", "mqtt"])
def address(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the worker is served, on each transport."""
    monkeypatch.setenv("FEDWS_MQTT_PASSWORD", PASSWORD)
    urls = {"memory": "memory://alice", "ws": "ws://localhost:0"}
    found: str = urls.get(request.param) or request.getfixturevalue("broker")
    return found


def served(url: str, reasons: asyncio.Queue[str], **changes: Any) -> AbstractAsyncContextManager[str]:
    """A worker that answers with 3 MiB, and notes why its link was closed."""

    async def handle(channel: Channel) -> None:
        await channel.receive()
        await channel.send(WELCOME)
        channel.mark_authenticated()
        try:
            while True:
                await channel.send(reported(await channel.receive(), tensors=HEAVY, **changes))
        except LinkError as error:
            reasons.put_nowait(f"{type(error).__name__}: {error}")

    way = registry.find_piece("transport", url.partition(":")[0])()
    found: AbstractAsyncContextManager[str] = way.serve(url, handle, Limits(), node="alice")
    return found


async def test_a_report_of_a_model_that_was_not_asked_for_closes_the_link_with_both_sizes(address: str) -> None:
    reasons: asyncio.Queue[str] = asyncio.Queue()
    async with asyncio.timeout(PATIENCE), served(address, reasons) as url, Heard(url) as heard:
        assert await heard.next() == JOINED
        answer = await heard.link.execute(asked())
        assert isinstance(answer, TaskFailure) and answer.kind == "failed"
        assert re.fullmatch(REFUSED, answer.reason), answer.reason
        assert (await reasons.get()).startswith("MessageRejected: message 'task_result' of 3,145,")


async def test_the_same_report_is_taken_where_the_request_can_produce_it(address: str) -> None:
    async with asyncio.timeout(PATIENCE), served(address, asyncio.Queue()) as url, Heard(url) as heard:
        assert await heard.next() == JOINED
        for order in (replace(asked(), max_result_bytes=3 * 2**20), replace(asked(round_number=2), tensors=HEAVY)):
            answer = await heard.link.execute(order)
            assert isinstance(answer, TaskResult) and answer.tensors.keys() == {"w"}


# --------------------------------------------------------------------------- whole runs


def heavy(order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
    """The model as it is, in a body that is 3 MiB larger."""
    return workspace.build_result(order, {"loss": 1.0, "num_examples": 120}, {**order.tensors, "more": HEAVY["w"]})


def same(order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
    """The model as it is."""
    return workspace.build_result(order, {"loss": 1.0, "num_examples": 120}, order.tensors)


@contextlib.asynccontextmanager
async def federation(
    tmp_path: Path, score: Any = None, bob: Any = heavy, shelf: BodyStore | None = None
) -> AsyncIterator[dict[str, Any]]:
    """alice, who is honest, bob, and an evaluator; gives a run's settings."""
    nodes = {"alice": worker("alice", same), "bob": worker("bob", bob), "testing": evaluating(score)}
    async with contextlib.AsyncExitStack() as stack:
        urls = {}
        for name, node in nodes.items():
            there = fedws.serve(node, f"memory://{name}", Limits(peer_timeout=1.5), INSECURE, shelf)
            urls[name] = await stack.enter_async_context(there)
        yield settings(urls, min_results=1, rounds=4, peer_timeout=1.5, run_dir=tmp_path / "run")


async def test_a_worker_that_sends_too_much_three_times_is_excluded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fedws")
    async with asyncio.timeout(PATIENCE), federation(tmp_path) as given:
        result = await _ended(given)
    what = "too few workers are left for min_results 2: bob: failed: broke the protocol: message 'task_result' of 3,14"
    assert what in result


async def _ended(given: dict[str, Any]) -> str:
    with pytest.raises(fedws.RunFailed) as ended:
        await fedws.run(**{**given, "min_results": 2})
    return str(ended.value)


async def test_a_body_in_an_object_store_is_never_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[int] = []

    class Watched(FileStore):
        def get(self, run: str, name: str, buffer: memoryview, *more: Any, **other: Any) -> None:
            fetched.append(len(buffer))
            super().get(run, name, buffer, *more, **other)

    (tmp_path / "store").mkdir()
    shelf = BodyStore(Watched((tmp_path / "store").as_uri(), 5), min_bytes=2**20)
    async with asyncio.timeout(PATIENCE), federation(tmp_path, shelf=shelf) as given:
        result = await _ended({**given, "body_store": shelf})
    assert "bob: failed: broke the protocol: message 'task_result' of 3,14" in result
    assert set(fetched) == {32}, "the test blobs only; the model is sent on the link"


async def test_a_score_that_comes_with_its_model_costs_the_score(tmp_path: Path) -> None:
    """A score has no tensors, so the model that was sent may not come back."""
    async with asyncio.timeout(PATIENCE), federation(tmp_path, score=same, bob=same) as given:
        result = await fedws.run(**{**given, "rounds": 1, "model": "mnist_cnn"})
    log = (tmp_path / "run" / "run.log").read_text()
    assert "Scores missing in round 1: " in log and "broke the protocol: message 'task_result' of 1,72" in log
    assert result.accuracy is None and len(result.rounds()) == 1
