"""One connection to a broker; the only file that knows the MQTT library."""

import asyncio
import contextlib
import logging
import math
import socket
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from fedws.errors import LinkError, LinkLost, Refused, Unreachable
from fedws.interfaces import Limits
from fedws.mqtt.address import Address
from fedws.mqtt.frames import LARGEST
from fedws.reaching import NO_TLS, speaks_tls, why
from fedws.tls import Tls

LOST = "the broker's connection is lost"
OVERHEAD = 2048
"""Bytes of a packet beside its frame, at most: a topic and a few numbers."""
CHUNK = 2**17
"""Bytes of a frame: the fastest through Mosquitto. So much must get through within ``silence``."""
_NO_LOGIN = (0x86, 0x87)
AT_ONCE = 20
"""Packets that the broker has not acknowledged, at most; it may want fewer."""
_OPTIONS = ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),)
_DENIED = 0x87
_UNTOLD = (0x00, 0x80)  # without a word of the broker
_log = logging.getLogger("fedws.mqtt.library")
_log.setLevel(logging.CRITICAL)  # what goes wrong is raised, or said in a line of ours
Hear = Callable[[str, bytes, bool], None]


@dataclass(frozen=True)
class Said:
    """What is published when this connection ends without a word."""

    topic: str
    payload: bytes
    keep: float = 0.0
    """Seconds for which the broker keeps it in the place of what was retained; 0: it keeps nothing."""


class Broker:
    """A connection. What comes is handed to ``hear``: topic, payload, and whether it is from before."""

    def __init__(self, address: Address, tls: Tls | None, name: str, will: Said, limits: Limits, hear: Hear) -> None:
        self._address = address
        self._tls = tls
        self._hear = hear
        self._patience = limits.silence / 6
        self._at_once = AT_ONCE
        self._topics: dict[int, str] = {}  # of packets that the broker has not acknowledged
        self._behind: deque[tuple[str, bytes | bytearray, bool]] = deque()  # packets that wait for these
        self._idle = asyncio.Event()
        self._idle.set()
        self._watching: asyncio.Task[None] | None = None
        self.lost: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        """Why the connection is lost; never set while it is there, or when it was closed."""
        self.chunk = CHUNK
        """Bytes of a message in one frame, so that the broker takes the packet."""
        self._name, self._will, self._limits = name, will, limits
        self._client: _Client

    async def connect(self) -> None:
        """Raises Unreachable when there is no broker, and Refused when it does not let us in."""
        connecting = asyncio.create_task(self._connect())
        try:
            await asyncio.shield(connecting)
        except asyncio.CancelledError:  # a thread of the library may be at it, and cannot be stopped
            connecting.add_done_callback(self._unwanted)
            raise
        self._watching = asyncio.create_task(self._watch())

    def _unwanted(self, connecting: "asyncio.Task[None]") -> None:
        if not connecting.cancelled() and connecting.exception() is None:
            self.drop()

    async def _connect(self) -> None:
        self._client = _Client(
            self,
            self._address.host,
            self._address.port,
            username=self._address.user,
            password=self._address.password,
            identifier=self._name,
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=True,
            timeout=self._patience,
            keepalive=max(4, round(self._limits.beat)),  # seconds; the library looks once in a second
            will=_will(self._will),
            properties=_properties(PacketTypes.CONNECT, MaximumPacketSize=LARGEST + OVERHEAD),
            socket_options=_OPTIONS,
            tls_context=None if self._tls is None else self._tls.client(),
            max_inflight_messages=AT_ONCE,
            logger=_log,
        )
        self._client.patience(self._patience)
        try:
            await self._client.__aenter__()
        except aiomqtt.MqttError as error:
            self.drop()
            raise await self._unreached(error) from None
        except BaseException:
            self.drop()
            raise

    async def _unreached(self, error: aiomqtt.MqttError) -> LinkError:
        """What it means that there is no connection."""
        address, cause = self._address, error.__context__  # the library's own text has no kind
        if isinstance(error, aiomqtt.MqttCodeError) and isinstance(error.rc, ReasonCode):
            if error.rc.value in _NO_LOGIN:
                whose = f"{address.user!r} or its password" if address.user else self.user
                return Refused("key", f"the broker does not let in {whose} ({_told(error.rc)})")
            return Unreachable(f"the broker does not take us: {_told(error.rc)}")
        if isinstance(cause, ssl.SSLCertVerificationError):
            name = cause.verify_message.rstrip(".")
            return Refused("key", f"the broker's certificate is not accepted: {name}; its CA is named with --tls-ca")
        if isinstance(cause, ssl.SSLError) and cause.reason in NO_TLS:
            return Refused("key", "it is served without TLS; write mqtt://")
        if self._tls is not None and isinstance(cause, ConnectionResetError | BrokenPipeError | ssl.SSLEOFError):
            return Unreachable("the connection ended during the TLS handshake: mqtts:// is for ports with TLS")
        if isinstance(cause, OSError):
            return Unreachable(why(cause))
        if self._tls is None and await speaks_tls(address.host, address.port, self._patience):
            return Refused("key", "it is served with TLS; write mqtts://")
        if self._tls is not None and self._tls.cert is None:
            return Unreachable("it hangs up: does it ask for a certificate? --tls-cert and --tls-key")
        return Unreachable("no MQTT 5 there: it ended the connection")

    async def subscribe(self, *topics: str) -> None:
        """Raises Refused when one is not permitted, and LinkLost."""
        try:
            codes = await self._client.subscribe([(topic, 1) for topic in topics])
        except aiomqtt.MqttError:
            raise self._loss() from None
        for topic, code in zip(topics, codes, strict=True):
            if isinstance(code, ReasonCode) and code.is_failure:
                raise Refused("policy", f"the broker does not let {self.user} read {topic} ({_told(code)})")

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
        if self._watching is not None:
            self._watching.cancel()
        with contextlib.suppress(aiomqtt.MqttError):
            await self._client.__aexit__(None, None, None)
        self.drop()

    def drop(self) -> None:
        """End it without a word."""
        if (own := self._client.socket) is not None:
            with contextlib.suppress(OSError):
                own.shutdown(socket.SHUT_RDWR)

    # ------------------------------------------------------------------ what the library tells

    def connected(self, properties: Properties | None) -> None:
        """The broker lets us in, and says how large a packet may be, and how many at once."""
        largest = getattr(properties, "MaximumPacketSize", math.inf)
        self.chunk = int(max(256, min(CHUNK, largest - OVERHEAD)))
        self._at_once = int(min(AT_ONCE, getattr(properties, "ReceiveMaximum", math.inf)))

    def heard(self, topic: str, payload: bytes, before: bool) -> None:
        """A message has come."""
        self._hear(topic, payload, before)

    def acknowledged(self, number: int, code: ReasonCode) -> None:
        """The broker has a packet, or does not want it."""
        topic = self._topics.pop(number, "")
        self._push()
        if not self._topics:
            self._idle.set()
        if code.is_failure and topic:
            why = f"the broker does not let {self.user} write {topic} ({_told(code)})"
            self._lose(Refused("policy", why) if code.value == _DENIED else LinkLost(why))

    @property
    def user(self) -> str:
        """Who we are to it."""
        return self._address.user or "those without a user"

    async def _watch(self) -> None:
        """Wait for the end; messages are heard where they come in."""
        try:
            async for _ in self._client.messages:
                pass
        except aiomqtt.MqttError as error:
            code = getattr(error.__cause__, "rc", None)
            if isinstance(code, ReasonCode) and code.value not in _UNTOLD:
                return self._lose(LinkLost(f"{LOST}: {_told(code)}"))
            self._lose(LinkLost(LOST))

    def _lose(self, error: LinkError) -> None:
        if not self.lost.done():
            self.lost.set_result(error)
        self._idle.set()

    def _loss(self) -> LinkError:
        return self.lost.result() if self.lost.done() else LinkLost(LOST)


class _Client(aiomqtt.Client):
    """The library's, that also tells what it would keep to itself, and hands messages on without a queue."""

    def __init__(self, broker: Broker, *given: Any, **settings: Any) -> None:
        super().__init__(*given, **settings)
        self._broker = broker

    @property
    def socket(self) -> Any:
        """The connection's; None when there is none."""
        return self._client.socket()

    def patience(self, seconds: float) -> None:
        """How long its thread tries to connect."""
        self._client.connect_timeout = seconds

    def put(self, topic: str, payload: bytes | bytearray, *, sure: bool, retain: bool) -> int:
        """Publish without waiting; gives the packet's number."""
        return self._client.publish(topic, payload, int(sure), retain).mid

    def _on_connect(
        self, client: Any, userdata: Any, flags: Any, reason_code: ReasonCode, properties: Properties | None = None
    ) -> None:
        if not reason_code.is_failure:
            self._broker.connected(properties)
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_disconnect(
        self, client: Any, userdata: Any, flags: Any, reason_code: ReasonCode, properties: Properties | None = None
    ) -> None:
        if not self._connected.done():  # the library would wait on
            self._connected.set_exception(aiomqtt.MqttError("it ended the connection"))
        super()._on_disconnect(client, userdata, flags, reason_code, properties)

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        with contextlib.suppress(UnicodeDecodeError):
            self._broker.heard(message.topic, message.payload, message.retain)

    def _on_publish(
        self, client: Any, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        self._broker.acknowledged(mid, reason_code)


def packet(topic: str, size: int) -> int:
    """Bytes of a packet that is acknowledged, with a payload of so many (MQTT 5.0, section 3.3)."""
    rest = 2 + len(topic) + 2 + 1 + size
    return 1 + max(1, -(-rest.bit_length() // 7)) + rest


def _will(said: Said) -> aiomqtt.Will:
    properties = None
    if said.keep:
        properties = _properties(PacketTypes.WILLMESSAGE, MessageExpiryInterval=int(said.keep))
    return aiomqtt.Will(said.topic, said.payload, 1, bool(said.keep), properties)


def _properties(packet: int, **values: int) -> Properties:
    found: Properties = Properties(packet)  # type: ignore[no-untyped-call]
    for name, value in values.items():
        setattr(found, name, value)
    return found


def _told(code: ReasonCode) -> str:
    """What a broker says, which is from a list of the standard."""
    return f"{code.value:#04x}, {str(code).lower()}"
