"""A node's end of a link: whom it serves, refuses and lets go, and what a run hears of it."""

import asyncio
import contextlib
import json
import re
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import fedws
from fedws.core import registry
from fedws.core.errors import LinkLost, UsageError
from fedws.network.base import Limits
from fedws.network.lookup import find_transport
from fedws.privacy.audit_log import AuditLog
from fedws.protocol.encoder import PROTOCOL_VERSION
from fedws.protocol.messages import Refusal, TaskFailure, TaskResult, Welcome
from tests.helpers.federation import PATIENCE, Gate, Proxy, address, evaluating, federation, happens, settings, worker
from tests.helpers.manual_coordinator import HELLO, answer, closed, data, honest, order, rough, welcomed

pytestmark = pytest.mark.usefixtures("nobody_has_a_key")


@pytest.mark.parametrize("protocol", [0, PROTOCOL_VERSION + 1, 2**63 - 1])
@pytest.mark.parametrize("node", ["alice", "bob"])
async def test_a_coordinator_with_another_protocol_is_refused(node: str, protocol: int) -> None:
    """First of all: the rest of its ``hello`` may mean something else."""
    async with fedws.serve(worker(), "ws://localhost:0") as url, rough(url) as socket:
        await socket.send(data(replace(HELLO, node=node, protocol=protocol)))
        reason = f"alice uses protocol {PROTOCOL_VERSION}, not {protocol}"
        assert await answer(socket) == Refusal(kind="protocol", reason=reason)


async def test_an_unknown_task_is_refused_and_the_link_stays() -> None:
    async with fedws.serve(worker(), "ws://localhost:0") as url, rough(url) as socket:
        await welcomed(socket)
        await socket.send(data(order(task="os.system")))
        refusal = await answer(socket)
        assert isinstance(refusal, TaskFailure)
        assert refusal.kind == "refused"
        assert "unknown task 'os.system'" in refusal.reason
        await socket.send(data(order(settings={"model": "points_linear"}, request_id="2")))
        refusal = await answer(socket)
        assert isinstance(refusal, TaskFailure)
        assert (refusal.request_id, refusal.reason) == ("2", "alice has data set 'points', not 'mnist'")
        await socket.send(data(order(request_id="3")))
        report = await answer(socket)
        assert isinstance(report, TaskResult)
        assert (report.request_id, report.num_examples) == ("3", 120)


async def test_a_task_that_cannot_be_loaded_fails_without_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text of its own error may name files of the node."""
    point = EntryPoint("theirs.fit", "their_package:fit", "fedws.task")

    def load(self: EntryPoint) -> None:
        raise RuntimeError("secret /home/bob/data.csv")

    monkeypatch.setattr(EntryPoint, "load", load)
    monkeypatch.setattr(registry, "_load_entry_points", lambda kind: {point.name: point} if kind == "task" else {})
    log = tmp_path / "audit.jsonl"
    node = fedws.Worker("alice", "points", worker()._context.data, audit_log=AuditLog(log))
    async with fedws.serve(node, "ws://localhost:0") as url, rough(url) as socket:
        await welcomed(socket)
        await socket.send(data(order(task="theirs.fit")))
        failure = await answer(socket)
        assert isinstance(failure, TaskFailure)
        assert (failure.kind, failure.reason) == ("failed", "UsageError (see the log of alice)")
        await socket.send(data(order(request_id="2")))
        assert isinstance(await answer(socket), TaskResult), "the link stays"
    assert [json.loads(line)["outcome"] for line in log.read_text().splitlines()] == ["failed", "result"]
    assert "secret" not in log.read_text()


@pytest.mark.parametrize("scheme", ["ws", "memory"])
async def test_no_error_of_the_node_becomes_a_close_reason(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the limits of the coordinator do, where they do not admit a welcome."""

    def fail(*given: object) -> None:
        raise UsageError("secret /home/bob/data.csv")

    node = worker()
    monkeypatch.setattr(node, "execute", fail)
    async with fedws.serve(node, address(scheme, "alice")) as url:
        channel = await find_transport(url).connect(url, Limits())
        await channel.send(HELLO)
        assert isinstance(await channel.receive(), Welcome)
        await channel.send(order())
        with pytest.raises(LinkLost) as lost:
            await channel.receive()
    assert "secret" not in str(lost.value)


async def test_a_silent_peer_is_let_go() -> None:
    async with fedws.serve(worker(), "ws://localhost:0", Limits(peer_timeout=1.2)) as url, rough(url) as socket:
        assert await closed(socket) == "no hello in time"


async def test_a_busy_worker_says_which_run_holds_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The second run waits for it, and has it as soon as it is free."""
    caplog.set_level("INFO", "fedws")
    async with fedws.serve(worker(), "ws://localhost:0") as url, rough(url) as socket:
        await welcomed(socket)
        with pytest.raises(fedws.RunFailed) as failed:
            await fedws.run(run_dir=tmp_path / "run", **settings({"alice": url}, peer_timeout=1.5))
        busy = r"alice is busy with run rough since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
        where = f"alice at {re.escape(url)}"
        assert re.fullmatch(rf"not connected within 1\.5 s: {where} \({busy}\)", str(failed.value))
        assert any(re.fullmatch(rf"Waiting for {where} \({busy}\)", text) for text in caplog.messages)
        assert not (tmp_path / "run").exists()
        waiting = asyncio.create_task(honest(url, tmp_path / "run"))
        await socket.close()
        await waiting


async def test_an_address_that_reaches_another_node(tmp_path: Path) -> None:
    """Also two workers that call themselves alice: the second one's address is meant for bob."""
    async with fedws.serve(worker(), "ws://localhost:0") as one, fedws.serve(worker(), "ws://localhost:0") as two:
        with pytest.raises(fedws.RunFailed) as failed:
            await fedws.run(run_dir=tmp_path / "run", **settings({"alice": one, "bob": two}))
        assert str(failed.value) == f"bob at {two}: this is alice, not bob"
        assert not (tmp_path / "run").exists()
        same = one.replace("localhost", "127.0.0.1")
        with pytest.raises(fedws.RunFailed, match=r"this is alice, not bob$"):
            await fedws.run(run_dir=tmp_path / "run", **settings({"alice": one, "bob": same}))
        with pytest.raises(fedws.UsageError, match=f"{one} is the address of two nodes"):
            await fedws.run(run_dir=tmp_path / "run", **settings({"alice": one, "bob": one}))
        await honest(one, tmp_path / "run")


async def test_roles_are_not_mixed_up(tmp_path: Path) -> None:
    """The evaluator is no worker, which ends the run; a worker is no evaluator, which costs the scores."""
    async with (
        fedws.serve(worker(), "ws://localhost:0") as alice,
        fedws.serve(worker("bob"), "ws://localhost:0") as bob,
        fedws.serve(evaluating(), "ws://localhost:0") as score,
    ):
        flags = settings({"alice": alice})
        with pytest.raises(fedws.RunFailed) as failed:
            await fedws.run(run_dir=tmp_path / "a", **{**flags, "workers": {"alice": alice, "testing": score}})
        assert str(failed.value) == f"testing at {score}: it is an evaluator, not a worker"
        await fedws.run(run_dir=tmp_path / "b", **{**flags, "evaluator": {"bob": bob}, "peer_timeout": 0.5})
    text = (tmp_path / "b" / "run.log").read_text()
    assert "Scores missing in round 1: alice, federated (bob: it is a worker, not an evaluator)" in text


async def test_a_worker_with_other_data_is_named(tmp_path: Path) -> None:
    other = fedws.Worker("alice", "other_points", worker()._context.data)
    async with fedws.serve(other, "ws://localhost:0") as url:
        with pytest.raises(fedws.RunFailed) as failed:
            await fedws.run(run_dir=tmp_path / "run", **settings({"alice": url}))
    assert str(failed.value) == f"alice at {url}: it holds other_points, not points; see --dataset"


async def test_pings_are_answered_while_a_worker_trains() -> None:
    gate = Gate()
    async with fedws.serve(worker(task=gate), "ws://localhost:0") as url, rough(url) as socket:
        await welcomed(socket)
        await socket.send(data(order()))
        await happens(gate.entered)
        for _ in range(3):
            await asyncio.wait_for(await socket.ping(), PATIENCE)
        async with rough(url) as second:
            await second.send(data(replace(HELLO, run="another")))
            assert getattr(await answer(second), "kind", None) == "busy"
        gate.opened.set()
        assert isinstance(await answer(socket), TaskResult)


@pytest.mark.parametrize("how", ["closes", "dies", "falls silent"])
async def test_a_coordinator_that_vanishes_stops_the_training(how: str, tmp_path: Path) -> None:
    """Soon, and the worker is free for the next run."""
    gate = Gate()
    limits = Limits(peer_timeout=3) if how == "falls silent" else Limits()
    async with fedws.serve(worker(task=gate), "ws://localhost:0", limits) as url, Proxy(url) as proxy:
        async with contextlib.AsyncExitStack() as stack:
            socket = await stack.enter_async_context(rough(proxy.url))
            await welcomed(socket)
            await socket.send(data(order()))
            await happens(gate.entered)
            if how == "closes":
                await socket.close()
            elif how == "dies":
                socket.transport.abort()
            else:
                proxy.freeze()
            await happens(gate.stopped)
            socket.transport.abort()
        gate.opened.set()
        await honest(url, tmp_path / "run")


async def test_a_worker_that_falls_silent_is_awaited_then_named(tmp_path: Path) -> None:
    """Neither closed nor answering, and whoever dials it hears nothing."""
    gate = Gate(held=(2,))
    async with federation(tasks={"bob": gate}) as flags, Proxy(flags["workers"]["bob"]) as proxy:
        flags["workers"]["bob"] = proxy.url
        run = asyncio.create_task(fedws.run(run_dir=tmp_path / "run", **flags, peer_timeout=1.2))
        await happens(gate.entered)
        proxy.freeze()
        with pytest.raises(fedws.RunFailed, match=rf"^not connected within 1\.2 s: bob at {proxy.url} \(no answer\)$"):
            await asyncio.wait_for(run, PATIENCE)
    assert (tmp_path / "run" / "model.safetensors").exists()
