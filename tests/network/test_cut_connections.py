"""Real connections that are cut before a body could cross in one piece: over each transport it crosses all the same."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fedws
from fedws.algorithms.fedavg import fit
from fedws.core import registry
from fedws.core.limits import CHUNK_BYTES
from fedws.network.base import Limits
from fedws.protocol.messages import TaskRequest, TaskResult
from tests.helpers.federation import Points, Proxy, settings
from tests.helpers.mosquitto import PASSWORD, Mosquitto, mosquitto
from tests.helpers.virtual_runs import assert_same
from tests.network.test_cut_links import Wide

MOST = 5 * CHUNK_BYTES // 2
"""Bytes that one connection lasts, of both directions together: less than a model, more than two chunks of one."""


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._pieces, ("model", "wide"), Wide)


@pytest.fixture
def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mosquitto]:
    monkeypatch.setenv("FEDWS_MQTT_PASSWORD", PASSWORD)
    with mosquitto(tmp_path / "broker") as running:
        yield running


class Short(Proxy):
    """Aborts each connection once it has carried ``MOST`` bytes."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.cuts = self.bytes = 0

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        left = [MOST]
        for source, target, other in ((reader, far_writer, writer), (far_reader, writer, far_writer)):
            self._pipes.add(asyncio.create_task(self._carry(source, target, other, left)))

    async def _carry(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, other: asyncio.StreamWriter, left: list[int]
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while left[0] > 0 and (data := await source.read(2**16)):
                target.write(data[: left[0]])
                self.bytes += len(data[: left[0]])
                left[0] -= len(data)
                await target.drain()
        self.cuts += left[0] <= 0
        for end in (target, other):
            end.transport.abort()


async def run(folder: Path, url: str, fits: Counter[int], through: Any) -> fedws.RunResult:
    """Two rounds with one worker, whose coordinator reaches it through a proxy, or not."""

    def counted(order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
        fits[order.round] += 1
        return fit(order, workspace)

    node = fedws.Worker("alice", "points", Points(Path(), True), tasks={"fedavg.fit": counted})
    served = fedws.join_run(node, url) if url.startswith("mqtt") else fedws.serve(node, url, Limits())
    async with served as there, through(there) as place:
        given = settings({"alice": place}, model="wide", max_local_batches=1, lr=0.01)
        return await fedws.run(run_dir=folder, **given)


@pytest.mark.parametrize("scheme", ["ws", "mqtt"])
async def test_a_body_crosses_in_pieces(scheme: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("broker").url if scheme == "mqtt" else "ws://localhost:0"
    size = sum(tensor.numel() * 4 for tensor in Wide().state_dict().values())
    assert 2 * CHUNK_BYTES < MOST < size
    shorts: list[Short] = []

    @contextlib.asynccontextmanager
    async def straight(there: str) -> Any:
        yield there

    @contextlib.asynccontextmanager
    async def short(there: str) -> Any:
        proxy = Short(there)
        shorts.append(proxy)
        async with proxy:
            port = proxy.url.rpartition(":")[2]
            yield f"{there.rpartition(':')[0]}:{port}"

    fits: Counter[int] = Counter()
    found = await run(tmp_path / "short", url, fits, short)
    assert_same(found, await run(tmp_path / "straight", url, Counter(), straight))
    assert set(fits.values()) == {1}, "and nothing was trained twice"
    assert shorts[0].cuts >= 4, "of each of two orders and two reports"
    assert shorts[0].bytes < 8 * size
