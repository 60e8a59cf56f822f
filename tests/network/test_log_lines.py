"""What peers can make a node log: each kind of line comes at once for a few, and then once in ten seconds."""

import asyncio
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fedws
from fedws.core.errors import LinkLost
from fedws.network.base import Channel, Limits
from fedws.network.mqtt.broker_url import parse_broker_url
from fedws.network.mqtt.listener import MqttListener
from fedws.network.mqtt.session import ListenerConfig
from fedws.network.transports.memory import MemoryTransport
from fedws.node.dial_out import join_run
from fedws.node.server import serve
from fedws.privacy.audit_log import AuditLog
from fedws.protocol.messages import Hello, Message, Refusal, TaskFailure, TaskRequest, TaskResult, Welcome
from fedws.security.credentials import INSECURE
from tests.helpers.federation import Points, worker
from tests.helpers.virtual_time import virtual

LIMITS = Limits(peer_timeout=60.0)
FEW = 22
"""Twenty lines may come at once, and one more if a test takes ten seconds."""
MANY = 100


@pytest.fixture(autouse=True)
def _all_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fedws")


async def call(run: str) -> tuple[Channel, Message]:
    channel = await MemoryTransport().connect("memory://alice", LIMITS)
    await channel.send(Hello(run=run, node="alice", protocol=1))
    return channel, await channel.receive()


@virtual
async def test_links_that_come_and_go_fill_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """The first of them are logged at once."""
    async with serve(worker(), "memory://alice", LIMITS, INSECURE):
        for number in range(MANY):
            channel, answer = await call(f"{number:08}-run")
            assert isinstance(answer, Welcome)
            await channel.close()
            await asyncio.sleep(0.1)
            if number == 0:
                begun, ended = caplog.messages
                assert begun == "alice: run 00000000 started" and ended.startswith("alice: run 00000000 ended")
        assert len(caplog.messages) <= FEW


@virtual
async def test_refused_runs_fill_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever they are called."""
    async with serve(worker(), "memory://alice", LIMITS, INSECURE):
        await call("holder")
        for number in range(MANY):
            channel, answer = await call(f"run {number}")
            assert isinstance(answer, Refusal)
            await channel.close()
        assert any("rejected run run 0: alice is busy with run holder since" in line for line in caplog.messages)
        assert len(caplog.messages) <= FEW


def failing(order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
    raise ValueError("no such sample")


def test_tasks_that_fail_fill_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "fedws")
    node = worker(task=failing)
    for number in range(MANY):
        answer = node.execute(TaskRequest(request_id=str(number), worker="alice", round=1, task="fedavg.fit"))
        assert isinstance(answer, TaskFailure) and answer.kind == "failed"
    lines = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "alice: task fedavg.fit failed: ValueError: no such sample" in lines[0].getMessage()
    assert len(lines) <= FEW and len(caplog.records) <= 2 * FEW, "with their tracebacks, for who debugs"


def test_refused_tasks_fill_no_log(caplog: pytest.LogCaptureFixture) -> None:
    node = worker()
    for number in range(MANY):
        answer = node.execute(TaskRequest(request_id=str(number), worker="alice", round=1, task=f"none{number}"))
        assert isinstance(answer, TaskFailure) and answer.kind == "refused"
    assert 1 <= len(caplog.messages) <= FEW


async def test_refusals_do_not_hide_that_a_run_begins(caplog: pytest.LogCaptureFixture) -> None:
    async with serve(worker(), "memory://alice", LIMITS, INSECURE):
        holder, _ = await call("holder")
        for number in range(MANY):
            refused, _ = await call(f"run {number}")
            await refused.close()
        await holder.close()
        while not any("run holder ended" in line for line in caplog.messages):
            await asyncio.sleep(0)
        assert isinstance((await call("another"))[1], Welcome)
    assert "alice: run another started" in caplog.messages


def test_an_audit_log_that_cannot_be_written_fills_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    audit = AuditLog(tmp_path / "alice.jsonl")
    node = fedws.Worker("alice", "points", Points(tmp_path, True), audit_log=audit)
    (tmp_path / "alice.jsonl.head").unlink()
    for number in range(MANY):
        answer = node.execute(TaskRequest(request_id=str(number), worker="alice", round=1, task="none"))
        assert isinstance(answer, TaskFailure)
    lines = [line for line in caplog.messages if "cannot write the audit log, so no answer is sent" in line]
    assert 1 <= len(lines) <= FEW


@virtual
async def test_who_is_joined_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """Also with a reason that is another each time, and with a ``hello`` after which nothing comes."""
    came = 0

    async def meets(channel: Channel) -> None:
        nonlocal came
        came += 1
        await channel.receive()
        if came % 2:
            return await channel.send(Refusal(kind="busy", reason=f"reason {came}"))
        return await channel.send(Hello(run=str(came), node="alice", protocol=1))

    async with (
        MemoryTransport().serve("memory://run", meets, LIMITS),
        join_run(worker(), "memory://run", LIMITS, INSECURE),
    ):
        while came < MANY:
            await asyncio.sleep(1)
    for what in ("waiting to join", "joined the run", "run "):
        assert any(what in line for line in caplog.messages)
    assert len(caplog.messages) <= 2 * FEW, "those of the dialler, and those of runs"


@virtual
async def test_a_broker_that_comes_and_goes_fills_no_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lost = 0

    async def loses() -> LinkLost:
        nonlocal lost
        lost += 1
        await asyncio.sleep(0.01)
        return LinkLost(f"the connection to the broker is lost: {lost}")

    async def ends() -> None:
        pass

    async def begins(self: MqttListener) -> None:
        self._session = session

    session: Any = SimpleNamespace(wait_lost=loses, close=ends, instance="0" * 32)
    monkeypatch.setattr(MqttListener, "_connect", begins)

    async def handle(channel: Channel) -> None:
        pass

    served: Any = ListenerConfig(parse_broker_url("mqtt://localhost"), None, "alice", handle, LIMITS, False, None)  # type: ignore[arg-type]
    async with MqttListener(served).serve():
        while lost < MANY:
            await asyncio.sleep(1)
    assert caplog.messages[0] == "alice: the connection to the broker is lost: 1; reconnecting"
    assert len(caplog.messages) <= FEW
