"""The MQTT library, which no other file knows: a connection that tells of what comes as it comes, without queues."""

import asyncio
import contextlib
import logging
import math
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from fedws.network.mqtt.broker_url import BrokerAddress

MAX_IN_FLIGHT_PACKETS = 20
"""Packets that the broker has not acknowledged, at most; it may want fewer."""
_SYNTHETIC_CODES = (0x00, 0x80)  # codes that the library makes up when a connection ends without a word
_EXECUTOR = ThreadPoolExecutor(32, thread_name_prefix="mqtt")
"""A broker that does not answer keeps other dials waiting, and nobody else."""
_TCP_QUICKACK = getattr(socket, "TCP_QUICKACK", None)
_log = logging.getLogger("fedws.mqtt.library")
_log.setLevel(logging.CRITICAL)  # what goes wrong is raised, or said in a line of ours


class MqttFailure(Exception):
    """What the library could not do: what the broker said, with its code, or what the network's error was."""

    def __init__(self, reason: str = "", code: int = 0, cause: BaseException | None = None) -> None:
        super().__init__(reason)
        self.code = code
        self.cause = cause


@dataclass(frozen=True)
class LastWill:
    """What is published when a connection ends without a word."""

    topic: str
    payload: bytes
    retain_seconds: float = 0.0
    """Seconds for which the broker keeps it in the place of what was retained; 0: it keeps nothing."""


class MqttCallbacks(Protocol):
    """Who hears of a connection."""

    def on_connected(self, max_packet_bytes: float, receive_maximum: float) -> None:
        """The broker lets us in: bytes of a packet that it takes, and packets that it takes unacknowledged."""

    def on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        """A message has come; ``retained``: it was retained."""

    def on_acknowledged(self, packet_id: int, refusal: str, code: int) -> None:
        """The broker has taken a packet, unless there is a reason why it has ``refusal`` it, with its code."""


class _ClosingSSLSocket(ssl.SSLSocket):
    """The library leaves one open that comes to nothing."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


class MqttClient(aiomqtt.Client):
    """One connection."""

    def __init__(
        self,
        callbacks: MqttCallbacks,
        address: BrokerAddress,
        tls_context: ssl.SSLContext | None,
        client_id: str,
        will: LastWill,
        *,
        timeout: float,
        ping_interval: float,
        max_packet_bytes: int,
    ) -> None:
        """``timeout`` is for an answer, ``ping_interval`` between pings, in seconds; ``max_packet_bytes`` in bytes of a
        packet."""
        if tls_context is not None:
            tls_context.sslsocket_class = _ClosingSSLSocket
        super().__init__(
            address.host,
            address.port,
            username=address.user,
            password=address.password,
            identifier=client_id,
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=True,
            timeout=timeout,
            keepalive=max(
                4, round(ping_interval)
            ),  # the library looks once in a second, and brokers give 1.5 times as much
            will=_build_will(will),
            properties=_build_properties(PacketTypes.CONNECT, MaximumPacketSize=max_packet_bytes),
            tls_context=tls_context,
            max_inflight_messages=MAX_IN_FLIGHT_PACKETS,
            logger=_log,
        )
        self._client.connect_timeout = timeout
        self._callbacks = callbacks

    async def open_connection(self) -> None:
        """Connect, as the library would, but in threads that nobody else needs. Raises Failed."""
        try:
            await asyncio.get_running_loop().run_in_executor(_EXECUTOR, self._client_connect)
            await self._wait_for(asyncio.shield(self._connected), None)  # which is told of later, too
        except OSError as error:
            self.abort()
            raise MqttFailure(cause=error) from None
        except aiomqtt.MqttError as error:
            self.abort()
            if isinstance(error, aiomqtt.MqttCodeError) and isinstance(error.rc, ReasonCode):
                raise MqttFailure(_describe_code(error.rc), error.rc.value) from None
            raise MqttFailure(cause=error.__context__) from None  # the library's own text has no kind
        except BaseException:
            self.abort()
            raise

    async def subscribe_topics(self, topics: list[str]) -> list[str]:
        """Subscribe; gives for each why it was refused, empty where it was not. Raises Failed."""
        try:
            codes = await self.subscribe([(topic, 1) for topic in topics])
        except aiomqtt.MqttError as error:
            raise MqttFailure(cause=error.__context__) from None
        self._enable_quick_ack()
        return [_describe_code(code) if isinstance(code, ReasonCode) and code.is_failure else "" for code in codes]

    def publish_nowait(self, topic: str, payload: bytes | bytearray, *, reliable: bool, retain: bool) -> int:
        """Publish without waiting; gives the packet's number."""
        return self._client.publish(topic, payload, int(reliable), retain).mid

    async def wait_closed(self) -> str:
        """Wait until the connection ends; gives what the broker said."""
        try:
            async for _ in self.messages:  # never: they are heard where they come in
                pass
        except aiomqtt.MqttError as error:
            code = getattr(error.__cause__, "rc", None)
            if isinstance(code, ReasonCode) and code.value not in _SYNTHETIC_CODES:
                return _describe_code(code)
        return ""

    async def close_connection(self, topics: list[str]) -> None:
        """End it in order: nothing is said for us.

        These topics are left first: a broker that cannot write to us, since we are gone, may not read that we took
        leave.
        """
        with contextlib.suppress(aiomqtt.MqttError):
            if topics:
                await self.unsubscribe(topics)
        with contextlib.suppress(aiomqtt.MqttError):
            await self.__aexit__(None, None, None)
        self.abort()

    def abort(self) -> None:
        """End it without a word."""
        if (own := self._socket) is not None:
            with contextlib.suppress(OSError):
                own.shutdown(socket.SHUT_RDWR)

    @property
    def _socket(self) -> Any:
        return self._client.socket()

    def _enable_quick_ack(self) -> None:
        """Acknowledge what has come at once: brokers hold small packets back until then, for 40 ms (Nagle)."""
        if _TCP_QUICKACK is not None and self._socket is not None:
            self._socket.setsockopt(socket.IPPROTO_TCP, _TCP_QUICKACK, 1)

    # ------------------------------------------------------------------ what the library calls

    def _on_socket_open(self, client: Any, userdata: Any, sock: Any) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super()._on_socket_open(client, userdata, sock)

    def _on_connect(
        self, client: Any, userdata: Any, flags: Any, reason_code: ReasonCode, properties: Properties | None = None
    ) -> None:
        if not reason_code.is_failure:
            limits = (getattr(properties, name, math.inf) for name in ("MaximumPacketSize", "ReceiveMaximum"))
            self._callbacks.on_connected(*limits)
        self._enable_quick_ack()
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_disconnect(
        self, client: Any, userdata: Any, flags: Any, reason_code: ReasonCode, properties: Properties | None = None
    ) -> None:
        if not self._connected.done():  # the library would wait on
            self._connected.set_exception(aiomqtt.MqttError())
            self._connected.exception()  # nobody may be waiting any more
        super()._on_disconnect(client, userdata, flags, reason_code, properties)

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        self._enable_quick_ack()
        with contextlib.suppress(UnicodeDecodeError):
            self._callbacks.on_message(message.topic, message.payload, message.retain)

    def _on_publish(
        self, client: Any, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        self._enable_quick_ack()
        self._callbacks.on_acknowledged(
            mid, _describe_code(reason_code) if reason_code.is_failure else "", reason_code.value
        )


def _build_will(last_will: LastWill) -> aiomqtt.Will:
    properties = None
    if last_will.retain_seconds:
        properties = _build_properties(PacketTypes.WILLMESSAGE, MessageExpiryInterval=int(last_will.retain_seconds))
    return aiomqtt.Will(last_will.topic, last_will.payload, 1, bool(last_will.retain_seconds), properties)


def _build_properties(packet: int, **values: int) -> Properties:
    found: Properties = Properties(packet)  # type: ignore[no-untyped-call]
    for name, value in values.items():
        setattr(found, name, value)
    return found


def _describe_code(code: ReasonCode) -> str:
    """What a broker says, which is from a list of the standard."""
    return f"{str(code).lower()}, {code.value:#04x}"
