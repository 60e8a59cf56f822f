"""A simulated device, seen by whoever dials it: answers take virtual time, and it is away now and then."""

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import fedws
from fedws.core.errors import LinkLost, Unreachable
from fedws.core.task_settings import TrainSettings
from fedws.core.tensors import copy_to_cpu
from fedws.data.samples import SampleSubset
from fedws.network.base import Channel, Limits
from fedws.network.transports.memory import MemoryChannel, MemoryTransport
from fedws.protocol.encoder import PROTOCOL_VERSION
from fedws.protocol.messages import Hello, TaskFailure, TaskRequest, TaskResult, Welcome
from fedws.simulation.device import Device, DeviceSpeed, SlowChannel
from fedws.simulation.event_log import EventLog
from fedws.simulation.tensor_cache import TensorCache
from fedws.simulation.virtual_loop import run_in_virtual_time
from fedws.training.model_building import build_model
from tests.helpers.federation import Points, registered, worker

LIMITS = Limits()
STAYS: Sequence[tuple[float, float]] = [(math.inf, 0.0)]
MODEL = 4 * 10 * 4 + 10 * 4 + 8
"""Bytes of a PointsLinear: weights, biases, a counter."""


@pytest.fixture(autouse=True)
def _known() -> Iterator[None]:
    with registered():
        yield


def now() -> float:
    return asyncio.get_running_loop().time()


@contextlib.asynccontextmanager
async def living(
    path: Path, pace: DeviceSpeed, absences: Sequence[tuple[float, float]] = STAYS, task: Any = None
) -> AsyncIterator[EventLog]:
    """Alice lives, and what happens to her is in events.jsonl."""
    journal = EventLog(path / "events.jsonl")
    alice = worker("alice") if task is None else worker("alice", task)
    device = Device(alice, pace, iter(absences), journal)
    life = asyncio.create_task(device.run(LIMITS))
    await asyncio.sleep(0)
    try:
        yield journal
    finally:
        life.cancel()
        await asyncio.wait([life])
        journal.close()


async def dial() -> Channel:
    channel = await MemoryTransport().connect("memory://alice", LIMITS)
    await channel.send(Hello(run="r", node="alice", protocol=PROTOCOL_VERSION))
    assert isinstance(await channel.receive(), Welcome)
    return channel


def order(number: int = 1, batches: int = 5) -> TaskRequest:
    settings = TrainSettings(
        model="points_linear", dataset="points", batch_size=8, max_local_batches=batches
    ).model_dump()
    tensors = copy_to_cpu(build_model("points_linear", 1).state_dict())
    return TaskRequest(
        request_id=f"{number}/alice",
        worker="alice",
        round=number,
        task="fedavg.fit",
        settings=settings,
        tensors=tensors,
    )


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "events.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("batches", "pace", "seconds"),
    [
        (5, DeviceSpeed(0.5), 20.0),  # 40 samples
        (100, DeviceSpeed(0.5), 60.0),  # all 120
        (5, DeviceSpeed(0.5, bytes_per_second=MODEL), 22.0),  # a second there, a second back
        (5, DeviceSpeed(0.0), 0.0),
    ],
)
def test_an_answer_takes_as_long_as_its_samples_and_its_way(
    tmp_path: Path, batches: int, pace: DeviceSpeed, seconds: float
) -> None:
    async def ask() -> tuple[object, float]:
        async with living(tmp_path, pace):
            channel = await dial()
            await asyncio.sleep(3)
            await channel.send(order(batches=batches))
            return await channel.receive(), now() - 3

    report, took = run_in_virtual_time(ask())
    assert isinstance(report, TaskResult)
    assert took == pytest.approx(seconds)


def test_orders_are_answered_one_after_the_other(tmp_path: Path) -> None:
    async def ask() -> list[float]:
        async with living(tmp_path, DeviceSpeed(1.0)):
            channel = await dial()
            for number in (1, 2, 3):
                await channel.send(order(number))
            found = []
            for _ in range(3):
                await channel.receive()
                found.append(now())
            return found

    assert run_in_virtual_time(ask()) == [40, 80, 120]


def test_a_refusal_takes_no_time(tmp_path: Path) -> None:
    async def ask() -> tuple[object, float]:
        async with living(tmp_path, DeviceSpeed(1.0)):
            channel = await dial()
            await channel.send(TaskRequest(request_id="1/alice", worker="alice", round=1, task="nothing"))
            return await channel.receive(), now()

    answer, took = run_in_virtual_time(ask())
    assert isinstance(answer, TaskFailure) and answer.kind == "refused" and took == 0
    assert events(tmp_path)[-1] | {"reason": ""} == {
        "t": 0, "event": "failure", "worker": "alice", "request_id": "1/alice", "kind": "refused", "reason": "",
    }  # fmt: skip


def test_without_a_count_of_samples_the_work_is_that_of_all(tmp_path: Path) -> None:
    def nothing(order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
        return workspace.build_result(order, {"num_examples": "many"})

    async def ask() -> float:
        async with living(tmp_path, DeviceSpeed(1.0), task=nothing):
            channel = await dial()
            await channel.send(order())
            await channel.receive()
            return now()

    assert run_in_virtual_time(ask()) == len(Points(Path(), True))


def test_a_device_that_leaves_loses_what_it_worked_on_and_comes_back(tmp_path: Path) -> None:
    async def ask() -> None:
        async with living(tmp_path, DeviceSpeed(1.0), [(100, 50), (math.inf, 0)]):
            channel = await dial()
            await channel.send(order(1))
            assert isinstance(await channel.receive(), TaskResult) and now() == 40
            await asyncio.sleep(40)
            await channel.send(order(2))
            with pytest.raises(LinkLost):
                await channel.receive()
            assert now() == 100
            with pytest.raises(Unreachable):
                await dial()
            await asyncio.sleep(49)
            with pytest.raises(Unreachable):
                await dial()
            await asyncio.sleep(2)
            channel = await dial()
            await channel.send(order(2))
            assert isinstance(await channel.receive(), TaskResult) and now() == 191

    run_in_virtual_time(ask())
    told = [(event["t"], event["event"], event.get("request_id")) for event in events(tmp_path)]
    assert told == [
        (0, "connected", None),
        (0, "request", "1/alice"),
        (40, "result", "1/alice"),
        (80, "request", "2/alice"),
        (100, "lost", "2/alice"),
        (100, "disconnected", None),
        (151, "connected", None),
        (151, "request", "2/alice"),
        (191, "result", "2/alice"),
    ]


def test_a_device_that_leaves_while_an_order_is_on_its_way(tmp_path: Path) -> None:
    async def ask() -> None:
        async with living(tmp_path, DeviceSpeed(1.0, bytes_per_second=MODEL / 10), [(5, 5), (math.inf, 0)]):
            channel = await dial()
            await channel.send(order())
            with pytest.raises(LinkLost):
                await channel.receive()
            assert now() == 5

    run_in_virtual_time(ask())
    assert [event["event"] for event in events(tmp_path)] == ["connected", "request", "lost", "disconnected"]


def test_whoever_closes_the_link_and_calls_again_is_served_at_once(tmp_path: Path) -> None:
    async def ask() -> None:
        async with living(tmp_path, DeviceSpeed(1.0), [(90, 90)]):
            channel = await dial()
            await channel.send(order(1))
            await asyncio.sleep(1)
            await channel.close()
            channel = await dial()
            await channel.send(order(2))
            assert isinstance(await channel.receive(), TaskResult) and now() == 41
            await asyncio.sleep(50)  # then it leaves, and nothing is lost with it

    run_in_virtual_time(ask())
    assert [event["event"] for event in events(tmp_path)] == [
        "connected",
        "request",
        "connected",
        "request",
        "result",
        "disconnected",
    ]


@pytest.mark.parametrize("task", ["fedavg.fit", "fedsgd.gradient", "fedbuff.fit", "fedasync.fit"])
@pytest.mark.parametrize("batches", [1, 4, 5, 16, 100])
@pytest.mark.parametrize("epochs", [1, 2, 7])
@pytest.mark.parametrize("drop_last", [False, True])
def test_the_samples_of_an_order_are_foretold(task: str, batches: int, epochs: int, drop_last: bool) -> None:
    """12 samples in batches of 5 are batches of 5, 5 and 2."""
    node = fedws.Worker("alice", "points", SampleSubset(Points(Path(), True), torch.arange(12)))
    asked = order(batches=batches)
    own: dict[str, Any] = {"mu": 0.0} if task == "fedasync.fit" else {}
    own |= {"batch_size": 5, "epochs": epochs, "drop_last": drop_last}
    asked = replace(asked, task=task, settings={**asked.settings, **own})
    report = node.execute(asked)
    assert isinstance(report, TaskResult), report
    assert DeviceSpeed(1.0).estimate_work_seconds(asked, 12) == DeviceSpeed(1.0).work_seconds(report)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_local_batches": 1},
        {"max_local_batches": "1", "batch_size": 2, "epochs": 1},
        {"batch_size": 0, "epochs": 1},
    ],
)
def test_what_settings_do_not_tell_is_not_foretold(settings: dict[str, Any]) -> None:
    assert (
        DeviceSpeed(1.0).estimate_work_seconds(
            TaskRequest(request_id="1", worker="alice", round=1, task="any", settings=settings), 12
        )
        == 0
    )


def test_a_device_counts_bytes_as_its_link_does(tmp_path: Path) -> None:
    async def count() -> None:
        near, far = MemoryChannel.create_pair(LIMITS)
        with contextlib.closing(EventLog(tmp_path / "events.jsonl")) as journal:
            slow = SlowChannel(far, "alice", DeviceSpeed(1.0), journal, TensorCache())
            await near.send(order())
            await slow.receive()
            await slow.send(TaskResult(request_id="1/alice", worker="alice", round=1, num_examples=1))
            await near.receive()
            assert slow.bytes_received == near.bytes_sent > MODEL and slow.bytes_sent == near.bytes_received > 0

    run_in_virtual_time(count())


def test_a_closed_journal_takes_no_more(tmp_path: Path) -> None:
    async def tell() -> EventLog:
        journal = EventLog(tmp_path / "events.jsonl")
        journal.write("connected", worker="alice")
        journal.close()
        journal.write("disconnected", worker="alice")
        return journal

    assert run_in_virtual_time(tell()).counts == {"connected": 1}
    assert events(tmp_path) == [{"t": 0, "event": "connected", "worker": "alice"}]


def test_a_journal_of_nothing_is_no_file(tmp_path: Path) -> None:
    EventLog(tmp_path / "events.jsonl").close()
    assert not list(tmp_path.iterdir())
