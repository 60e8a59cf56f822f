"""A live worker, attacked over real sockets by strangers and by a member with excessive requests, beside an honest run.

Certificates that are expired or foreign are in ``tests/network/test_tls.py``.
"""

import asyncio
import contextlib
import hashlib
import itertools
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import psutil
import pytest

from fedws.network.admission import MAX_PENDING_CONNECTIONS
from fedws.protocol import encoder, handshake
from fedws.protocol.messages import Challenge, Hello, Proof, Refusal, TaskFailure, TaskRequest, Welcome
from tests.abuse.hostile import DEFLATE, PATIENCE, UPGRADE, Hostile, data, frame, hello, hostile, many_files
from tests.fuzz.connections import most_memory
from tests.helpers.processes import Command, Processes, dialling, identity, serving
from tests.helpers.support import TAKEOVER, require

KEY = bytes.fromhex("5e" * 32)
BOUND = 32 * 2**20
"""Largest growth of the worker's peak memory under attack, in bytes. Measured: 7.3 MiB."""
IDLE, HALF, EACH = 500, 200, 4
APART = 4.0
"""Seconds before a dropped stranger connects again; about 200 of them then connect per second."""
ROUNDS = ("--rounds", "4", "--dataset", "digits", "--batch-size", "16")


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    many_files()
    started = Processes(tmp_path_factory.mktemp("abuse"), {})
    yield started
    started.close()


@pytest.fixture(scope="module")
def node(processes: Processes) -> Command:
    """Serve a worker whose owner allows only training."""
    (processes.folder / "policy.toml").write_text('tasks = ["fedavg.fit"]\n')
    flags = ("--dataset", "digits", "--peer-timeout", "6", "--policy", "policy.toml")
    return processes.fork("worker", *identity("alice"), *flags)


@pytest.fixture(scope="module")
def url(node: Command) -> str:
    return serving({"alice": node})["alice"]


async def honest(processes: Processes, url: str, name: str) -> str:
    """Check that a run on that worker succeeds; return the digest of its model."""
    run = processes.fork("run", *dialling({"alice": url}), "--run-dir", name, *ROUNDS)
    assert await asyncio.to_thread(run.end) == 0, run.everything
    return hashlib.sha256((processes.folder / name / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def undisturbed(processes: Processes, url: str) -> str:
    """Return the digest of the model of a run without attacks."""
    return asyncio.run(honest(processes, url, "undisturbed"))


@contextlib.asynccontextmanager
async def member(url: str) -> AsyncIterator[tuple[Hostile, Hello, Proof]]:
    """Open a link of a peer with the key; return it with the messages of its handshake."""
    async with hostile(url) as peer:
        called = hello()
        challenge = await peer.challenged(called)
        assert isinstance(challenge, Challenge)
        proof = handshake.create_proof(KEY, called, challenge, TAKEOVER)
        await peer.say(frame(data(proof)))
        assert isinstance(await peer.hear(), Welcome)
        yield peer, called, proof


# --------------------------------------------------------------------------- one by one


async def test_a_frame_of_4_gb_is_refused_by_its_length(node: Command, url: str) -> None:
    before = psutil.Process(node.pid).memory_info().rss
    async with hostile(url) as peer:
        await peer.upgrade()
        await peer.say(frame(bytes(64), claim=2**32))
        assert b"\x03\xf1" in await peer.dropped(), "1009"
    assert psutil.Process(node.pid).memory_info().rss - before < BOUND


async def test_a_header_of_4_gb_is_refused_by_its_length(url: str) -> None:
    async with hostile(url) as peer:
        await peer.upgrade()
        await peer.say(frame(encoder.MAGIC + b"\1\0\0\0\xff\xff\xff\xff"))
        assert b"header of 4294967295 bytes exceeds the limit of 524288" in await peer.dropped()


async def test_a_deflate_bomb_is_never_inflated(url: str) -> None:
    """The peer offers compression, which the node does not accept; a compressed frame is then an error."""
    async with hostile(url) as peer:
        head = await peer.upgrade(DEFLATE)
        assert head.startswith(b"HTTP/1.1 101 ") and b"deflate" not in head
        await peer.say(frame(b"\xec\xc1\x01\x01" + bytes(60_000), rsv1=True))
        assert b"\x03\xea" in await peer.dropped(), "1002"


async def dribble_an_upgrade(peer: Hostile) -> None:
    """Send one byte at a time until the node drops the connection."""
    await dribble(peer, UPGRADE + b"X-More: " + b"x" * 10_000)


async def dribble_a_message(peer: Hostile) -> None:
    """Do the same after the upgrade to a websocket."""
    await peer.upgrade()
    await dribble(peer, frame(data(hello())) + frame(bytes(10_000)))


async def dribble(peer: Hostile, whole: bytes) -> None:
    ended = asyncio.create_task(peer.dropped())
    for byte in whole:
        await peer.say(bytes([byte]))
        await asyncio.wait([ended], timeout=0.05)
        if ended.done():
            break
    assert ended.done(), "it took them all"


@pytest.mark.parametrize("dribbled", [dribble_an_upgrade, dribble_a_message])
async def test_who_dribbles_is_dropped_after_a_sixth_of_silence(
    url: str, dribbled: Callable[[Hostile], Awaitable[None]]
) -> None:
    began = asyncio.get_running_loop().time()
    async with hostile(url) as peer:
        await dribbled(peer)
    assert 0.9 < asyncio.get_running_loop().time() - began < PATIENCE / 2


async def test_another_key_and_a_recorded_handshake_are_refused(url: str) -> None:
    async with member(url) as (_, called, recorded):
        pass
    for wrong in (recorded, Proof(proof=handshake.create_nonce(), takeover_key=TAKEOVER)):
        async with hostile(url) as peer:
            assert isinstance(await peer.challenged(called), Challenge)
            await peer.say(frame(data(wrong)))
            refusal = await peer.hear()
            assert isinstance(refusal, Refusal) and refusal.kind == "key"


async def test_an_order_for_a_forbidden_task_is_refused_with_the_reason(url: str) -> None:
    async with member(url) as (peer, _, _):
        await peer.say(frame(data(TaskRequest(request_id="1", worker="alice", round=1, task="fedsgd.gradient"))))
        answer = await peer.hear()
        assert isinstance(answer, TaskFailure) and answer.kind == "refused"
        assert "policy" in answer.reason and "fedsgd.gradient" in answer.reason


async def test_an_order_for_another_or_a_second_time_ends_the_link(url: str) -> None:
    order = TaskRequest(request_id="1", worker="alice", round=1, task="evaluate")
    async with member(url) as (peer, _, _):
        await peer.say(frame(data(order)), frame(data(order)))
        assert b"duplicate request '1'" in await peer.dropped()
    async with member(url) as (peer, _, _):
        await peer.say(frame(data(TaskRequest(request_id="1", worker="bob", round=1, task="evaluate"))))
        assert b"request is for bob, not for alice" in await peer.dropped()


# --------------------------------------------------------------------------- all at once


class Crowd:
    """Strangers that connect again and again until the test ends them."""

    def __init__(self, url: str, recorded: tuple[Hello, Proof]) -> None:
        self._url = url
        self._recorded = recorded
        self._over = asyncio.Event()
        self.came: Counter[str] = Counter()
        self.welcomed = 0
        self.kinds: dict[str, tuple[int, Callable[[Hostile], Awaitable[object]]]] = {
            "idle": (IDLE, self._idle),
            "half-open": (HALF, self._half_open),
            "dribbled upgrade": (EACH, dribble_an_upgrade),
            "dribbled message": (EACH, dribble_a_message),
            "4 GB": (EACH, self._large),
            "deflate bomb": (EACH, self._bomb),
            "wrong key": (EACH, self._wrong),
            "replay": (EACH, self._replay),
        }

    async def besiege(self) -> None:
        """Run all of them until ``end``; raise the error of the first that fails."""
        async with asyncio.TaskGroup() as group:
            for name, (count, kind) in self.kinds.items():
                for number in range(count):
                    group.create_task(self._one(name, kind, number / count))

    def end(self) -> None:
        self._over.set()

    async def all_there(self) -> None:
        """Wait until each has connected once."""
        async with asyncio.timeout(PATIENCE):
            while any(self.came[name] < count for name, (count, _) in self.kinds.items()):
                await asyncio.sleep(0.01)  # between two looks

    async def _one(self, name: str, kind: Callable[[Hostile], Awaitable[object]], late: float) -> None:
        pauses = itertools.chain([0, APART * (0.25 + late)], itertools.repeat(APART))  # at first all at once
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), next(pauses))
            if self._over.is_set():
                return
            try:
                async with hostile(self._url) as peer:
                    self.came[name] += 1
                    acting = asyncio.ensure_future(kind(peer))
                    over = asyncio.ensure_future(self._over.wait())
                    await asyncio.wait([acting, over], return_when=asyncio.FIRST_COMPLETED)
                    over.cancel()
                    if acting.done():
                        acting.result()
                    acting.cancel()
                    await asyncio.gather(acting, over, return_exceptions=True)
            except ConnectionError:
                pass

    async def _idle(self, peer: Hostile) -> None:
        await peer.dropped()

    async def _half_open(self, peer: Hostile) -> None:
        await peer.challenged(hello())
        await peer.dropped()

    async def _large(self, peer: Hostile) -> None:
        await peer.upgrade()
        await peer.say(frame(bytes(64), claim=2**32))
        await peer.dropped()

    async def _bomb(self, peer: Hostile) -> None:
        await peer.upgrade(DEFLATE)
        await peer.say(frame(os.urandom(900), rsv1=True))
        await peer.dropped()

    async def _wrong(self, peer: Hostile) -> None:
        await peer.challenged(hello())
        await self._prove(peer, Proof(proof=handshake.create_nonce(), takeover_key=TAKEOVER))

    async def _replay(self, peer: Hostile) -> None:
        called, proof = self._recorded
        await peer.challenged(called)
        await self._prove(peer, proof)

    async def _prove(self, peer: Hostile, proof: Proof) -> None:
        await peer.say(frame(data(proof)))
        self.welcomed += isinstance(await peer.hear(), Welcome)


async def test_an_honest_run_beside_all_of_them_is_the_same(
    processes: Processes, node: Command, url: str, undisturbed: str
) -> None:
    require(sys.platform.startswith("linux"), "the peak memory of another process is only available on Linux")
    async with member(url) as (_, called, recorded):
        pass
    before, crowd = most_memory(node.pid), Crowd(url, (called, recorded))
    siege = asyncio.create_task(crowd.besiege())
    try:
        await crowd.all_there()
        came = crowd.came.total()
        assert await honest(processes, url, "besieged") == undisturbed
        assert crowd.came.total() > came, "they went on beside it"
    finally:
        crowd.end()
        await siege
    assert crowd.welcomed == 0
    grown = most_memory(node.pid) - before
    print(f"strangers came {crowd.came.total()} times: {dict(crowd.came)}; the peak grew by {grown / 2**20:.1f} MiB")
    assert grown < BOUND
    await all_gone(node)
    assert await honest(processes, url, "after") == undisturbed


async def all_gone(node: Command) -> None:
    """Wait until the worker has closed all their connections."""
    process = psutil.Process(node.pid)
    async with asyncio.timeout(PATIENCE):
        while any(link.status == psutil.CONN_ESTABLISHED for link in process.net_connections("tcp")):
            await asyncio.sleep(0.05)  # between two looks: another process's sockets tell nobody


@pytest.mark.parametrize(("count", "opened"), [(IDLE, False), (HALF, True)], ids=["idle", "half-open"])
async def test_of_hundreds_at_once_no_more_than_so_many_wait_at_the_door(
    node: Command, url: str, count: int, opened: bool
) -> None:
    """They do not wait long; the others are dropped as soon as more connect."""
    await all_gone(node)
    async with contextlib.AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(hostile(url)) for _ in range(count)]
        if opened:
            await asyncio.gather(*(peer.challenged(hello()) for peer in peers))
        else:
            await asyncio.gather(*(peer.dropped() for peer in peers[:-MAX_PENDING_CONNECTIONS]))
        process = psutil.Process(node.pid)
        assert (
            sum(link.status == psutil.CONN_ESTABLISHED for link in process.net_connections("tcp"))
            <= MAX_PENDING_CONNECTIONS
        )
        await asyncio.gather(*(peer.dropped() for peer in peers))
