"""One execution: an input to the decoder and to a node's handshake, with limits on time and memory.

The only correct outcomes are a message or a ProtocolError of one line, within these limits. No peer without the key may
receive a ``welcome``.
"""

import re
import time
import tracemalloc
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import torch

from fedws.core.errors import LinkLost, LinkRefused, ProtocolError
from fedws.core.rate_limited_log import RateLimitedLog
from fedws.network.base import MAX_HANDSHAKE_MESSAGE_BYTES
from fedws.network.body_transfer import BodyTransfers
from fedws.node.handshake import authenticate
from fedws.node.worker import Worker
from fedws.protocol.close_codes import CloseCode
from fedws.protocol.decoder import Decoder
from fedws.protocol.header import MAX_DIMENSIONS, explain_invalid_name
from fedws.protocol.messages import MESSAGE_TYPES, Challenge, Message, Proof
from fedws.security.credentials import Credentials
from fedws.security.network_key import NetworkKey
from tests.helpers.federation import Points
from tests.helpers.support import TAKEOVER

LIMITS = (MAX_HANDSHAKE_MESSAGE_BYTES, 2**12, 2**20, 2**30)
"""Largest sizes of a message in bytes; the first byte of an input selects one."""
OBJECTS = 8 * 2**20
"""Memory in bytes that the objects of a header of 64 KiB may use, beyond the message's limit. Measured: 5.2 MiB."""
SLOW = 1.0
"""Seconds after which an execution counts as hung."""
OFTEN = 32
"""Number of executions between two with traced memory; those of large inputs are always traced."""
LARGE = 4096


class Wrong(Exception):
    """An outcome that is not allowed."""


@dataclass
class Figures:
    """The figures of all executions so far."""

    executions: int = 0
    messages: int = 0
    handshakes: int = 0
    crashes: int = 0
    hangs: int = 0
    traced: int = 0
    peak: int = 0
    """Peak Python memory of an execution in bytes, without its input."""
    largest: int = 0
    """Size in bytes of the largest body that was allocated."""
    slowest: float = 0.0
    outcomes: dict[str, bytes] = field(default_factory=dict)
    """Shortest input of each outcome."""
    found: list[str] = field(default_factory=list)


class Target:
    """The target of the fuzzer, which executes inputs and counts their outcomes."""

    def __init__(self) -> None:
        self.figures = Figures()
        node = Worker("alice", "points", Points(None, True))  # type: ignore[arg-type]
        self._worker = node
        self._credentials = Credentials(NetworkKey(bytes(range(32)), "a test"))
        self._warning_log = RateLimitedLog("alice")

    def __call__(self, data: bytes) -> None:
        """Execute an input; raise Wrong for a problem, after counting it."""
        figures = self.figures
        figures.executions += 1
        traced = len(data) > LARGE or figures.executions % OFTEN == 0
        began = time.perf_counter()
        if traced:
            figures.traced += 1
            tracemalloc.start()
        try:
            outcome = self._execute(data)
        except Exception as error:
            figures.crashes += 1
            raise self._wrong(f"{type(error).__name__}: {error}", data) from error
        finally:
            took = tracemalloc.get_traced_memory()[1] if traced else 0
            if traced:
                tracemalloc.stop()
        if took > OBJECTS + 2 * len(data):
            took = min(took, _again(data))
        figures.peak = max(figures.peak, took)
        if took > OBJECTS + 2 * len(data):
            figures.crashes += 1
            raise self._wrong(f"{took} bytes of objects", data)
        seconds = time.perf_counter() - began
        figures.slowest = max(figures.slowest, seconds)
        if seconds > SLOW:
            figures.hangs += 1
            raise self._wrong(f"{seconds:.1f} s", data)
        best = figures.outcomes.get(outcome)
        if best is None or len(data) < len(best):
            figures.outcomes[outcome] = data

    def _wrong(self, what: str, data: bytes) -> Wrong:
        self.figures.found.append(f"{what}: {data[:4096].hex()}")
        return Wrong(what)

    def _execute(self, data: bytes) -> str:
        control, data = (data[0], data[1:]) if data else (0, b"")
        limit = LIMITS[control % len(LIMITS)]
        pieces = _cut(data, control // len(LIMITS))
        asked: list[int] = []
        try:
            message = self._decoded(pieces, limit, asked)
        except ProtocolError as error:
            if not str(error).isprintable() or len(str(error)) > 1000:
                raise Wrong(f"an error that is no line: {str(error)!r:.200}") from None
            outcome = _kind(str(error))
        else:
            self._check(message, data, limit)
            self.figures.messages += 1
            outcome = f"{type(message).__name__} of {min(3, len(getattr(message, 'tensors', ())))}"
            self._met(message)
        if sum(asked) > limit:
            raise Wrong(f"{sum(asked)} bytes of body; at most {limit}")
        self.figures.largest = max(self.figures.largest, sum(asked))
        return outcome

    def _decoded(self, pieces: list[bytes], limit: int, asked: list[int]) -> Message:
        """Decode, and record the decoder's allocations; those larger than any test needs are not made."""
        empty = torch.empty

        def watched(size: int, **how: Any) -> torch.Tensor:
            asked.append(size)
            if size > 2**24:
                raise ProtocolError("a body that is right, and too large to be fuzzed")
            return empty(size, **how)

        vars(torch)["empty"] = watched
        try:
            decoder = Decoder(limit)
            asked.clear()  # the decoder starts without a buffer
            for piece in pieces:
                decoder.feed(piece)
            return decoder.build_message()
        finally:
            vars(torch)["empty"] = empty

    def _check(self, message: Message, data: bytes, limit: int) -> None:
        if type(message) not in MESSAGE_TYPES.values() or len(data) > limit:
            raise Wrong(f"{type(message).__name__} of {len(data)} bytes; at most {limit}")
        for name, tensor in getattr(message, "tensors", {}).items():
            if explain_invalid_name(name) or tensor.dim() > MAX_DIMENSIONS:
                raise Wrong(f"a tensor {name!r} of shape {list(tensor.shape)}")

    def _met(self, message: Message) -> None:
        """Use the input as the first and as the second message of a handshake."""
        for first, second in ((message, Proof(proof="00" * 32, takeover_key=TAKEOVER)), (_HELLO, message)):
            peer = _Peer(first, second)
            if "admitted" in _driven(
                authenticate(peer, None, self._worker, self._credentials, self._warning_log), peer
            ):
                raise Wrong("a peer without the key was admitted")
            self.figures.handshakes += 1


def _again(data: bytes) -> int:
    """Return the memory of a second execution.

    The keys of maps are added to the interpreter's table of strings, which grows now and then. It grows by MiB, for all
    strings of the process, and then has room for all keys of one input.
    """
    run = Target()
    tracemalloc.start()
    try:
        run._execute(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


_HELLO = MESSAGE_TYPES["hello"](run="r", node="alice", protocol=1, nonce="ab" * 32)  # type: ignore[call-arg]


class _Peer:
    """A channel to a peer that sends two messages; it reflects the node's own proof if one of them is that."""

    peer = address = encryption = ""
    bytes_sent = bytes_received = 0
    is_receiving = False
    transfers = BodyTransfers()

    def __init__(self, *words: Message) -> None:
        self._words = list(words)
        self.events: list[str] = []

    async def send(self, message: Message) -> None:
        self.events.append(type(message).__name__)
        if isinstance(message, Challenge) and isinstance(self._words[0], Proof) and self._words[0].proof == "00" * 32:
            self._words[0] = Proof(proof=message.proof, takeover_key=TAKEOVER)

    async def receive(self) -> Message:
        if not self._words:
            raise LinkLost("gone")
        return self._words.pop(0)

    def mark_authenticated(self) -> None:
        self.events.append("admitted")

    def set_session_key(self, session_key: bytes) -> None:
        self.events.append("protected")

    async def wait_closed(self) -> None:
        pass

    async def close(self, reason: str = "", code: CloseCode = CloseCode.APPLICATION_ERROR) -> None:
        self.events.append("closed")


def _driven(meeting: Coroutine[Any, Any, object], peer: _Peer) -> list[str]:
    """Run a coroutine that never waits to its end, without an event loop."""
    try:
        meeting.send(None)
    except StopIteration:
        peer.events.append("admitted")
    except (LinkRefused, ProtocolError, LinkLost):
        pass
    else:
        raise Wrong("the handshake waits for something else")
    return peer.events


def _cut(data: bytes, how: int) -> list[bytes]:
    if how % 4 == 0:
        return [data]
    if how % 4 == 1:
        return [data[:13], data[13:14], b"", data[14:]]
    size = 7 if how % 4 == 2 else 64
    return [data[place : place + size] for place in range(0, min(len(data), 2**10), size)] + [data[2**10 :]]


def _kind(error: str) -> str:
    """Return the description of a problem without its place and sizes."""
    first, _, last = error.partition(": ")
    last = last.rpartition(": ")[2]
    place = "fields" if first in MESSAGE_TYPES else first.split(" ")[0]
    return re.sub(r"'.*'|\".*\"|\[.*\]|-?\d+", "#", f"{place}: {last or first}")[:80]
