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
from fedws.core.plan import Training
from fedws.core.tensors import detached
from fedws.data.samples import Part
from fedws.network.base import Channel, Limits
from fedws.network.transports.memory import Memory, MemoryChannel
from fedws.protocol.encoder import VERSION
from fedws.protocol.messages import Failure, Hello, Order, Report, Welcome
from fedws.simulation.device import Device, Pace, SlowChannel
from fedws.simulation.event_log import Journal
from fedws.simulation.tensor_cache import Shared
from fedws.simulation.virtual_loop import run
from fedws.training.building import initial
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
    path: Path, pace: Pace, absences: Sequence[tuple[float, float]] = STAYS, task: Any = None
) -> AsyncIterator[Journal]:
    """Alice lives, and what happens to her is in events.jsonl."""
    journal = Journal(path / "events.jsonl")
    alice = worker("alice") if task is None else worker("alice", task)
    device = Device(alice, pace, iter(absences), journal)
    life = asyncio.create_task(device.live(LIMITS))
    await asyncio.sleep(0)
    try:
        yield journal
    finally:
        life.cancel()
        await asyncio.wait([life])
        journal.close()


async def dial() -> Channel:
    channel = await Memory().connect("memory://alice", LIMITS)
    await channel.send(Hello(run="r", node="alice", protocol=VERSION))
    assert isinstance(await channel.receive(), Welcome)
    return channel


def order(number: int = 1, batches: int = 5) -> Order:
    settings = Training(model="points_linear", dataset="points", batch_size=8, batches=batches).model_dump()
    tensors = detached(initial("points_linear", 1).state_dict())
    return Order(
        id=f"{number}/alice", worker="alice", round=number, task="fedavg.fit", settings=settings, tensors=tensors
    )


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "events.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("batches", "pace", "seconds"),
    [
        (5, Pace(0.5), 20.0),  # 40 samples
        (100, Pace(0.5), 60.0),  # all 120
        (5, Pace(0.5, bandwidth=MODEL), 22.0),  # a second there, a second back
        (5, Pace(0.0), 0.0),
    ],
)
def test_an_answer_takes_as_long_as_its_samples_and_its_way(
    tmp_path: Path, batches: int, pace: Pace, seconds: float
) -> None:
    async def ask() -> tuple[object, float]:
        async with living(tmp_path, pace):
            channel = await dial()
            await asyncio.sleep(3)
            await channel.send(order(batches=batches))
            return await channel.receive(), now() - 3

    report, took = run(ask())
    assert isinstance(report, Report)
    assert took == pytest.approx(seconds)


def test_orders_are_answered_one_after_the_other(tmp_path: Path) -> None:
    async def ask() -> list[float]:
        async with living(tmp_path, Pace(1.0)):
            channel = await dial()
            for number in (1, 2, 3):
                await channel.send(order(number))
            found = []
            for _ in range(3):
                await channel.receive()
                found.append(now())
            return found

    assert run(ask()) == [40, 80, 120]


def test_a_refusal_takes_no_time(tmp_path: Path) -> None:
    async def ask() -> tuple[object, float]:
        async with living(tmp_path, Pace(1.0)):
            channel = await dial()
            await channel.send(Order(id="1/alice", worker="alice", round=1, task="nothing"))
            return await channel.receive(), now()

    answer, took = run(ask())
    assert isinstance(answer, Failure) and answer.kind == "refused" and took == 0
    assert events(tmp_path)[-1] | {"reason": ""} == {
        "t": 0, "event": "failure", "worker": "alice", "order": "1/alice", "kind": "refused", "reason": "",
    }  # fmt: skip


def test_without_a_count_of_samples_the_work_is_that_of_all(tmp_path: Path) -> None:
    def nothing(order: Order, workspace: fedws.Workspace) -> Report:
        return workspace.report(order, {"samples": "many"})

    async def ask() -> float:
        async with living(tmp_path, Pace(1.0), task=nothing):
            channel = await dial()
            await channel.send(order())
            await channel.receive()
            return now()

    assert run(ask()) == len(Points(Path(), True))


def test_a_device_that_leaves_loses_what_it_worked_on_and_comes_back(tmp_path: Path) -> None:
    async def ask() -> None:
        async with living(tmp_path, Pace(1.0), [(100, 50), (math.inf, 0)]):
            channel = await dial()
            await channel.send(order(1))
            assert isinstance(await channel.receive(), Report) and now() == 40
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
            assert isinstance(await channel.receive(), Report) and now() == 191

    run(ask())
    told = [(event["t"], event["event"], event.get("order")) for event in events(tmp_path)]
    assert told == [
        (0, "joined", None),
        (0, "order", "1/alice"),
        (40, "answer", "1/alice"),
        (80, "order", "2/alice"),
        (100, "lost", "2/alice"),
        (100, "left", None),
        (151, "joined", None),
        (151, "order", "2/alice"),
        (191, "answer", "2/alice"),
    ]


def test_a_device_that_leaves_while_an_order_is_on_its_way(tmp_path: Path) -> None:
    async def ask() -> None:
        async with living(tmp_path, Pace(1.0, bandwidth=MODEL / 10), [(5, 5), (math.inf, 0)]):
            channel = await dial()
            await channel.send(order())
            with pytest.raises(LinkLost):
                await channel.receive()
            assert now() == 5

    run(ask())
    assert [event["event"] for event in events(tmp_path)] == ["joined", "order", "lost", "left"]


def test_whoever_closes_the_link_and_calls_again_is_served_at_once(tmp_path: Path) -> None:
    async def ask() -> None:
        async with living(tmp_path, Pace(1.0), [(90, 90)]):
            channel = await dial()
            await channel.send(order(1))
            await asyncio.sleep(1)
            await channel.close()
            channel = await dial()
            await channel.send(order(2))
            assert isinstance(await channel.receive(), Report) and now() == 41
            await asyncio.sleep(50)  # then it leaves, and nothing is lost with it

    run(ask())
    assert [event["event"] for event in events(tmp_path)] == ["joined", "order", "joined", "order", "answer", "left"]


@pytest.mark.parametrize("task", ["fedavg.fit", "fedsgd.gradient", "fedbuff.fit", "fedasync.fit"])
@pytest.mark.parametrize("batches", [1, 4, 5, 16, 100])
@pytest.mark.parametrize("epochs", [1, 2, 7])
@pytest.mark.parametrize("drop_last", [False, True])
def test_the_samples_of_an_order_are_foretold(task: str, batches: int, epochs: int, drop_last: bool) -> None:
    """12 samples in batches of 5 are batches of 5, 5 and 2."""
    node = fedws.Worker("alice", "points", Part(Points(Path(), True), torch.arange(12)))
    asked = order(batches=batches)
    own: dict[str, Any] = {"mu": 0.0} if task == "fedasync.fit" else {}
    own |= {"batch_size": 5, "epochs": epochs, "drop_last": drop_last}
    asked = replace(asked, task=task, settings={**asked.settings, **own})
    report = node.answer(asked)
    assert isinstance(report, Report), report
    assert Pace(1.0).foretold(asked, 12) == Pace(1.0).work(report)


@pytest.mark.parametrize(
    "settings", [{}, {"batches": 1}, {"batches": "1", "batch_size": 2, "epochs": 1}, {"batch_size": 0, "epochs": 1}]
)
def test_what_settings_do_not_tell_is_not_foretold(settings: dict[str, Any]) -> None:
    assert Pace(1.0).foretold(Order(id="1", worker="alice", round=1, task="any", settings=settings), 12) == 0


def test_a_device_counts_bytes_as_its_link_does(tmp_path: Path) -> None:
    async def count() -> None:
        near, far = MemoryChannel.pair(LIMITS)
        with contextlib.closing(Journal(tmp_path / "events.jsonl")) as journal:
            slow = SlowChannel(far, "alice", Pace(1.0), journal, Shared())
            await near.send(order())
            await slow.receive()
            await slow.send(Report(order="1/alice", worker="alice", round=1, samples=1))
            await near.receive()
            assert slow.received == near.sent > MODEL and slow.sent == near.received > 0

    run(count())


def test_a_closed_journal_takes_no_more(tmp_path: Path) -> None:
    async def tell() -> Journal:
        journal = Journal(tmp_path / "events.jsonl")
        journal.tell("joined", worker="alice")
        journal.close()
        journal.tell("left", worker="alice")
        return journal

    assert run(tell()).counts == {"joined": 1}
    assert events(tmp_path) == [{"t": 0, "event": "joined", "worker": "alice"}]


def test_a_journal_of_nothing_is_no_file(tmp_path: Path) -> None:
    Journal(tmp_path / "events.jsonl").close()
    assert not list(tmp_path.iterdir())
