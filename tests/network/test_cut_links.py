"""Links that are cut at any byte: bodies go on from their last whole chunk, nothing is lost, nothing is done twice."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import log_softmax

import fedws
from fedws.algorithms.fedavg import fit
from fedws.core import registry
from fedws.core.errors import LinkLost
from fedws.core.limits import CHUNK_BYTES
from fedws.network.base import Limits
from fedws.network.transports.memory import MemoryChannel
from fedws.protocol.messages import TaskRequest, TaskResult
from tests.helpers.federation import WORKERS, Points, settings
from tests.helpers.virtual_runs import assert_same
from tests.helpers.virtual_time import virtual


class Wide(nn.Module):
    """3.5 MiB: between one chunk and the whole lie two that a body can go on from."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 61_000), nn.Linear(61_000, 10)

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        return log_softmax(self.outer(self.inner(points).relu()), dim=1)


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._pieces, ("model", "wide"), Wide)


class Scissors:
    """Cuts links of ``memory://``, each time when so many bytes more have crossed any of them, drawn at random."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cuts: int, most: int) -> None:
        self.bytes = 0
        self.cuts = 0
        self._most = most
        self._all = cuts
        self._draw = Random(6)
        self._left = self._draw.randrange(most)
        deliver = MemoryChannel.deliver
        scissors = self

        def cutting(channel: MemoryChannel, piece: bytes) -> None:
            if scissors.cuts == scissors._all or len(piece) <= scissors._left:
                scissors._left -= len(piece)
                scissors.bytes += len(piece)
                return deliver(channel, piece)
            scissors.bytes += scissors._left
            deliver(channel, piece[: scissors._left])
            scissors.cuts += 1
            scissors._left = scissors._draw.randrange(scissors._most)
            for end in (channel, channel._peer):
                if end is not None and not end._close_error:
                    end._close_error = LinkLost("cut")
                    end._closed_event.set()
                    end._inbox.put_nowait(None)
            raise LinkLost("cut")

        monkeypatch.setattr(MemoryChannel, "deliver", cutting)


@contextlib.asynccontextmanager
async def counting(fits: Counter[tuple[str, int]], workers: Sequence[str] = WORKERS) -> AsyncIterator[dict[str, Any]]:
    """Workers that count how often each trains in each round; gives the settings of a run over them."""

    def counted(order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
        fits[order.worker, order.round] += 1
        return fit(order, workspace)

    async with contextlib.AsyncExitStack() as stack:
        urls = {}
        for name in workers:
            node = fedws.Worker(name, "points", Points(Path(), True), tasks={"fedavg.fit": counted})
            urls[name] = await stack.enter_async_context(fedws.serve(node, f"memory://{name}", Limits()))
        yield settings(urls, model="wide", max_local_batches=1, lr=0.01)


async def run(folder: Path, rounds: int) -> tuple[fedws.RunResult, Counter[tuple[str, int]]]:
    fits: Counter[tuple[str, int]] = Counter()
    async with counting(fits) as found:
        return await fedws.run(run_dir=folder, **{**found, "rounds": rounds}), fits


def test_the_model_is_one_that_is_cut_in_the_middle() -> None:
    size = sum(tensor.numel() * 4 for tensor in Wide().state_dict().values())
    assert 3 * CHUNK_BYTES < size < 4 * CHUNK_BYTES


@pytest.mark.parametrize(("cuts", "rounds"), [(100, 6), pytest.param(1000, 56, marks=pytest.mark.long)])
@virtual
async def test_many_cuts_change_nothing(
    cuts: int, rounds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    with monkeypatch.context() as patch:
        whole = Scissors(patch, 0, 1)
        wanted, fits = await run(tmp_path / "whole", rounds)
    assert set(fits.values()) == {1}
    with monkeypatch.context() as patch:
        scissors = Scissors(patch, cuts, 2 * CHUNK_BYTES)
        found, fits = await run(tmp_path / "cut", rounds)
    assert scissors.cuts == cuts
    assert_same(found, wanted)
    assert set(fits.values()) == {1} and len(fits) == rounds * len(WORKERS), "nothing is trained twice"
    # The chunk that was under way, of which on the average of places a half was there, and a handshake.
    more = scissors.bytes - whole.bytes
    assert more < cuts * (CHUNK_BYTES + 2**14)
    log = (tmp_path / "cut" / "run.log").read_text()
    assert "excluded" not in log and log.count("has left: link lost: cut") > cuts / 10


@virtual
async def test_a_link_that_is_always_cut_in_its_second_chunk_still_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were each body sent from its beginning, it would never arrive."""
    cuts = 0
    deliver = MemoryChannel.deliver
    crossed: Counter[int] = Counter()

    def cutting(channel: MemoryChannel, piece: bytes) -> None:
        nonlocal cuts
        if len(piece) < CHUNK_BYTES // 2 or crossed[id(channel)] < CHUNK_BYTES:
            crossed[id(channel)] += len(piece)
            return deliver(channel, piece)
        cuts += 1
        crossed[id(channel)] = 0
        for end in (channel, channel._peer):
            if end is not None:
                end._close_error = LinkLost("cut")
                end._closed_event.set()
                end._inbox.put_nowait(None)
        raise LinkLost("cut")

    monkeypatch.setattr(MemoryChannel, "deliver", cutting)
    fits: Counter[tuple[str, int]] = Counter()
    async with counting(fits, ["alice"]) as found:
        async with asyncio.timeout(10_000):
            await fedws.run(run_dir=tmp_path / "run", **{**found, "rounds": 2})
    assert cuts >= 2 * 2 * 2, "of each order and report"
    assert set(fits.values()) == {1}
