"""Thousands of hostile connections to a live worker, between two honest runs that must give the same model."""

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

import msgpack

from fedws.protocol import encoder, handshake
from fedws.protocol.messages import Challenge, Hello, Proof, TaskRequest, Welcome
from tests.abuse import hostile
from tests.abuse.hostile import BINARY, DEFLATE, PING, TEXT, UPGRADE, Hostile, data, frame
from tests.fuzz.mutator import mutate, seeds
from tests.helpers.processes import Processes, dialling, identity, serving
from tests.helpers.support import TAKEOVER

AT_ONCE = 48
"""Number of connections at a time."""
ROUNDS = ("--rounds", "2", "--dataset", "digits", "--batch-size", "16")
NODE = ("--dataset", "digits", "--peer-timeout", "3")


@dataclass
class Storm:
    """The result of many hostile connections."""

    connections: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    """Number of connections that could not be opened."""
    stuck: int = 0
    """Number of connections that the node did not end in time."""
    welcomed: int = 0
    """Number of connections without the key that received a ``welcome``."""
    seconds: float = 0.0
    grown: int = 0
    """Growth of the worker's peak memory in bytes."""
    same: bool = False
    """True if the honest runs before and after the connections gave the same model."""


class Strangers:
    """Hostile peers of one node; ``recorded`` is an intercepted handshake."""

    def __init__(self, url: str, random: Random, recorded: tuple[Hello, Proof], corpus: list[bytes]) -> None:
        self._url = url
        self._random = random
        self._recorded = recorded
        self._corpus = corpus
        self.storm = Storm()
        self.kinds: dict[str, Callable[[Hostile], Awaitable[None]]] = {
            "garbage for HTTP": self._garbage,
            "half an upgrade": self._half_upgrade,
            "garbage for frames": self._frames,
            "mutated messages": self._mutant,
            "mutants after a hello": self._mutant_proof,
            "half a handshake": self._half_handshake,
            "a wrong proof": self._wrong_proof,
            "a reflected proof": self._reflected,
            "a replay": self._replay,
            "an order before the proof": self._order,
            "4 GB in a frame": self._large_frame,
            "4 GB in a header": self._large_header,
            "1 TB in a tensor": self._large_tensor,
            "a deflate bomb": self._bomb,
            "text": self._text,
            "pings": self._pings,
            "slow": self._slow,
        }

    async def come(self, number: int) -> None:
        """Open connection ``number`` and run its attack."""
        name = list(self.kinds)[number % len(self.kinds)]
        if name == "slow" and number % 5:  # each lasts until the node's timeout of half a second
            name = "mutated messages"
        self.storm.connections += 1
        self.storm.kinds[name] += 1
        try:
            async with hostile.hostile(self._url) as peer:
                await self.kinds[name](peer)
        except OSError:
            self.storm.refused += 1
        except TimeoutError:
            self.storm.stuck += 1

    async def _end(self, peer: Hostile) -> None:
        if b"\xa4type\xa7welcome" in await peer.dropped():
            self.storm.welcomed += 1

    async def _say(self, peer: Hostile, *frames: bytes, more: bytes = b"") -> None:
        await peer.upgrade(more)
        await peer.say(*frames)
        await self._end(peer)

    def _any(self) -> bytes:
        return mutate(self._random.choice(self._corpus), self._random)[1:]

    async def _garbage(self, peer: Hostile) -> None:
        await peer.say(self._random.randbytes(self._random.choice((1, 60, 9000))) + b"\r\n\r\n")
        await self._end(peer)

    async def _half_upgrade(self, peer: Hostile) -> None:
        await peer.say(UPGRADE[: self._random.randrange(len(UPGRADE))])

    async def _frames(self, peer: Hostile) -> None:
        await self._say(peer, self._random.randbytes(200), bytes(200))

    async def _mutant(self, peer: Hostile) -> None:
        whole = self._any()
        place = self._random.randrange(len(whole) + 1)
        await self._say(peer, frame(whole[:place], fin=False), frame(whole[place:], 0), frame(self._any()))

    async def _mutant_proof(self, peer: Hostile) -> None:
        await peer.challenged(hostile.hello())
        await peer.say(frame(self._any()), frame(b""))
        await self._end(peer)

    async def _half_handshake(self, peer: Hostile) -> None:
        await peer.challenged(hostile.hello())

    async def _wrong_proof(self, peer: Hostile) -> None:
        await peer.challenged(hostile.hello())
        await peer.say(frame(data(Proof(proof=self._random.randbytes(32).hex(), takeover_key=TAKEOVER))))
        await self._end(peer)

    async def _reflected(self, peer: Hostile) -> None:
        challenge = await peer.challenged(hostile.hello())
        if challenge is not None:
            await peer.say(frame(data(Proof(proof=challenge.proof, takeover_key=TAKEOVER))))
        await self._end(peer)

    async def _replay(self, peer: Hostile) -> None:
        hello, proof = self._recorded
        await peer.challenged(hello)
        await peer.say(frame(data(proof)))
        await self._end(peer)

    async def _order(self, peer: Hostile) -> None:
        await peer.challenged(hostile.hello())
        await peer.say(frame(data(TaskRequest(request_id="1", worker="alice", round=1, task="fedavg.fit"))))
        await self._end(peer)

    async def _large_frame(self, peer: Hostile) -> None:
        await self._say(peer, frame(bytes(64), claim=2**32))

    async def _large_header(self, peer: Hostile) -> None:
        await self._say(peer, frame(encoder.MAGIC + b"\1\0\0\0\xff\xff\xff\xff" + bytes(500)))

    async def _large_tensor(self, peer: Hostile) -> None:
        whole = data(TaskRequest(request_id="1", worker="alice", round=1, task="t"))
        length = int.from_bytes(whole[8:12], "little")
        table = msgpack.packb([{"name": "w", "dtype": "uint8", "shape": [2**40], "length": 2**40}])
        header = whole[12 : 12 + length].replace(b"\xa7tensors\x90", b"\xa7tensors" + table)
        head = encoder.MAGIC + b"\1\0\0\0" + len(header).to_bytes(4, "little") + header
        await self._say(peer, frame(head + bytes(-len(head) % 64)))

    async def _bomb(self, peer: Hostile) -> None:
        await self._say(peer, frame(b"\xec\xc1\x01\x01" + bytes(900), rsv1=True), more=DEFLATE)

    async def _text(self, peer: Hostile) -> None:
        await self._say(peer, frame(b"hello", TEXT))

    async def _pings(self, peer: Hostile) -> None:
        await peer.upgrade()
        await peer.say(*[frame(bytes(125), PING)] * 50)

    async def _slow(self, peer: Hostile) -> None:
        await peer.upgrade()
        await peer.say(*(bytes([byte]) for byte in frame(data(hostile.hello()), BINARY)[:20]))
        await self._end(peer)


async def storm(url: str, key: bytes, count: int, seconds: float, seed: int, corpus: list[bytes]) -> Storm:
    """Open so many connections, or as many as there is time for."""
    strangers = Strangers(url, Random(seed), await _recorded(url, key), corpus)
    numbers, began = iter(range(count)), time.monotonic()

    async def some() -> None:
        for number in numbers:
            if time.monotonic() - began > seconds:
                return
            await strangers.come(number)

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    strangers.storm.seconds = time.monotonic() - began
    return strangers.storm


async def _recorded(url: str, key: bytes) -> tuple[Hello, Proof]:
    """Return the messages of a member's handshake, as an attacker on its path can record them."""
    hello = hostile.hello()
    async with hostile.hostile(url) as peer:
        challenge = await peer.challenged(hello)
        assert isinstance(challenge, Challenge)
        proof = handshake.create_proof(key, hello, challenge, TAKEOVER)
        await peer.say(frame(data(proof)))
        assert isinstance(await peer.hear(), Welcome)
    return hello, proof


def against_a_worker(folder: Path, count: int, seconds: float, seed: int, *, fork: bool = False) -> Storm:
    """Start a worker, and let it serve an honest run, the hostile connections, and another honest run.

    With ``fork``, the commands are copies of a process that has imported everything, which is faster for few
    connections.
    """
    hostile.many_files()
    key = bytes(range(32))
    processes = Processes(folder, {"FEDWS_KEY": key.hex(), "XDG_STATE_HOME": str(folder / "state")})
    start = processes.fork if fork else partial(processes.start, "-m", "fedws")
    try:
        node = start("worker", *identity("alice"), *NODE)
        urls = serving({"alice": node})

        def honest(name: str) -> str:
            run = start("run", *dialling(urls), "--run-dir", name, *ROUNDS)
            assert run.end() == 0, run.everything
            return hashlib.sha256((folder / name / "model.safetensors").read_bytes()).hexdigest()

        before, peak = honest("before"), most_memory(node.pid)
        found = asyncio.run(storm(urls["alice"], key, count, seconds, seed, seeds()))
        found.grown = most_memory(node.pid) - peak
        found.same = honest("after") == before
        return found
    finally:
        processes.close()


def most_memory(pid: int) -> int:
    """Return the peak resident memory of a process in bytes; on systems other than Linux, the present one."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    import psutil

    return int(psutil.Process(pid).memory_info().rss)
