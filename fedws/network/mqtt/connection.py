"""One connection to a broker, in our words."""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any

from fedws.core.errors import LinkError, LinkLost, Refused, Unreachable
from fedws.network.admission import MOST
from fedws.network.base import Limits
from fedws.network.connect_errors import NO_TLS, speaks_tls, why
from fedws.network.mqtt.broker_url import Address
from fedws.network.mqtt.frames import LARGEST
from fedws.network.mqtt.library import AT_ONCE, Client, Failed, Said
from fedws.security.tls import Tls, unaccepted

LOST = "the broker's connection is lost"
OVERHEAD = 2048
"""Bytes of a packet beside its frame, at most: a topic and a few numbers."""
CHUNK = 2**17
"""Bytes of a message in one frame: the fastest through Mosquitto. So much must get through within ``silence``."""
_NO_LOGIN = (0x86, 0x87)
_DENIED = 0x87
Hear = Callable[[str, bytes, bool], None]


class Broker:
    """A connection. What comes is handed to ``hear``: topic, payload, and whether it is from before."""

    def __init__(self, address: Address, tls: Tls | None, name: str, will: Said, limits: Limits, hear: Hear) -> None:
        """``tls`` is None for a connection that is not encrypted."""
        self._address = address
        self._tls = tls
        self.heard = hear
        self._patience = limits.silence / 6
        self._at_once = AT_ONCE
        self._topics: dict[int, str] = {}  # of packets that the broker has not acknowledged
        self._behind: deque[tuple[str, bytes | bytearray, bool]] = deque()  # packets that wait for these
        self._read: list[str] = []  # topics
        self._idle = asyncio.Event()
        self._idle.set()
        self._watching: asyncio.Task[None] | None = None
        self._closed = False
        self.lost: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        """The LinkError by which the connection was lost; never set when it was closed."""
        self.chunk = CHUNK
        """Bytes of a message in one frame, so that the broker takes the packet."""
        context = None if tls is None else tls.client()
        packet = LARGEST + OVERHEAD
        self._client = Client(
            self, address, context, name, will, patience=self._patience, beat=limits.beat, largest=packet
        )

    @property
    def user(self) -> str:
        """Who we are to it."""
        return self._address.user or "those without a user"

    @property
    def crowded(self) -> bool:
        """Whether so much waits for the broker that no stranger should be answered."""
        return len(self._behind) > 2 * MOST

    def waits(self, topic: str) -> bool:
        """Whether something for a topic waits for the broker, and will be the last that was said there."""
        return any(topic == other for other, _, _ in self._behind)

    async def connect(self) -> None:
        """Raises Unreachable when there is no broker, and Refused when it does not let us in."""
        entering = asyncio.create_task(self._client.enter())
        try:
            await asyncio.shield(entering)
        except Failed as failed:
            raise await self._unreached(failed) from None
        except asyncio.CancelledError:  # a thread of the library may be at it, and cannot be stopped
            entering.add_done_callback(self._unwanted)
            raise
        self._watching = asyncio.create_task(self._watch())

    def _unwanted(self, entering: "asyncio.Task[None]") -> None:
        if not entering.cancelled() and entering.exception() is None:
            self._watching = asyncio.create_task(self._watch())
            self.drop()

    async def _unreached(self, failed: Failed) -> LinkError:
        """What it means that there is no connection."""
        cause, encrypted = failed.cause, self._tls is not None
        if failed.code in _NO_LOGIN:
            how = (
                "with this password" if self._address.password else "without a password: FEDWS_MQTT_PASSWORD is not set"
            )
            whom = f"{self._address.user} {how}" if self._address.user else self.user
            return Refused("key", f"the broker does not let in {whom} ({failed})")
        if failed.code:
            return Unreachable(f"the broker does not take us ({failed})")
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Refused("key", unaccepted(cause, self._address.host, self._tls or Tls()))
        if isinstance(cause, ssl.SSLError) and cause.reason in NO_TLS:
            return Refused("key", "it is served without TLS; write mqtt://")
        if encrypted and isinstance(cause, ConnectionResetError | BrokenPipeError | ssl.SSLEOFError):
            return Unreachable("the connection ended during the TLS handshake: mqtts:// is for ports with TLS")
        if isinstance(cause, OSError):
            return Unreachable(why(cause))
        if not encrypted and await speaks_tls(self._address.host, self._address.port, self._patience):
            return Refused("key", "it is served with TLS; write mqtts://")
        if self._tls is not None and self._tls.cert is None:
            return Unreachable("it hangs up: does it ask for a certificate? --tls-cert and --tls-key")
        return Unreachable("no MQTT 5 there: it ended the connection")

    async def subscribe(self, *topics: str) -> None:
        """Raises Refused when one is not permitted, and LinkLost."""
        self._read = list(topics)
        try:
            refusals = await self._client.ask(self._read)
        except Failed as failed:
            silent = isinstance(failed.cause, TimeoutError)
            error = LinkLost("the broker does not answer" if silent else LOST)
            raise self.lost.result() if self.lost.done() else error from None
        for topic, refused in zip(topics, refusals, strict=True):
            if refused:
                raise Refused("policy", f"the broker does not let {self.user} read {topic} ({refused})")

    def publish(self, topic: str, payload: bytes | bytearray, *, sure: bool = True, retain: bool = False) -> int:
        """Hand over a message; gives the bytes of its packet. What is ``sure`` is acknowledged, or refused.

        A refusal ends the connection. Raises LinkError.
        """
        if self.lost.done():
            raise self.lost.result()
        if not sure:
            self._client.put(topic, payload, sure=False, retain=retain)
        else:
            self._behind.append((topic, payload, retain))
            self._idle.clear()
            self._push()
        return packet(topic, len(payload))

    def _push(self) -> None:
        """Send what waits, as long as the broker wants more at once."""
        while self._behind and len(self._topics) < self._at_once:
            topic, payload, retain = self._behind.popleft()
            self._topics[self._client.put(topic, payload, sure=True, retain=retain)] = topic

    async def soon(self, event: asyncio.Event) -> bool:
        """Whether something happens within a sixth of ``silence``. Raises LinkError when the connection is lost."""
        waiting: asyncio.Future[Any] = asyncio.ensure_future(event.wait())
        both = {waiting, self.lost}
        try:
            await asyncio.wait(both, timeout=self._patience, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if self.lost.done():
            raise self.lost.result()
        return event.is_set()

    async def flush(self) -> None:
        """Wait until the broker has acknowledged what was sent for sure, in a sixth of ``silence`` at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                await self._idle.wait()

    async def close(self) -> None:
        """End it in order: the broker says nothing of the will."""
        await self.flush()
        self._closed = True
        await self._client.leave([] if self.lost.done() else self._read)
        if self._watching is not None:
            await asyncio.wait([self._watching], timeout=self._patience)
            self._watching.cancel()

    def drop(self) -> None:
        """End it without a word."""
        self._client.drop()

    # ------------------------------------------------------------------ what is told of it

    def connected(self, largest: float, at_once: float) -> None:
        """See :class:`fedws.network.mqtt.library.Listener`."""
        self.chunk = int(max(256, min(CHUNK, largest - OVERHEAD)))
        self._at_once = int(min(AT_ONCE, at_once))

    def acknowledged(self, number: int, refused: str, code: int) -> None:
        """See :class:`fedws.network.mqtt.library.Listener`."""
        topic = self._topics.pop(number, "")
        self._push()
        if not self._topics:
            self._idle.set()
        if topic and refused:
            reason = f"the broker does not let {self.user} write {topic} ({refused})"
            self._lose(Refused("policy", reason) if code == _DENIED else LinkLost(reason))

    async def _watch(self) -> None:
        told = await self._client.ended()
        if not self._closed:
            self._lose(LinkLost(f"{LOST}: {told}" if told else LOST))

    def _lose(self, error: LinkError) -> None:
        if not self.lost.done():
            self.lost.set_result(error)
        self._idle.set()


def packet(topic: str, size: int) -> int:
    """Bytes of a packet that is acknowledged, with a payload of so many (MQTT 5.0, section 3.3)."""
    rest = 2 + len(topic) + 2 + 1 + size
    return 1 + max(1, -(-rest.bit_length() // 7)) + rest
