"""The client of the MQTT library, which only this module uses.

It passes received packets to callbacks at once, without queues.
"""

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
"""Largest number of packets that the broker has not acknowledged. The broker may permit fewer."""
_SYNTHETIC_CODES = (0x00, 0x80)  # set by the library if a connection ends without a DISCONNECT packet
_EXECUTOR = ThreadPoolExecutor(32, thread_name_prefix="mqtt")
"""Threads for connection attempts. A broker that does not answer can delay other attempts only."""
_TCP_QUICKACK = getattr(socket, "TCP_QUICKACK", None)
_log = logging.getLogger("fedws.mqtt.library")
_log.setLevel(logging.CRITICAL)  # fedws raises errors or logs them itself


class MqttFailure(Exception):
    """The error that an operation of the library has failed.

    It has the reason and the code of the broker, or the network error as ``cause``.
    """

    def __init__(self, reason: str = "", code: int = 0, cause: BaseException | None = None) -> None:
        super().__init__(reason)
        self.code = code
        self.cause = cause


@dataclass(frozen=True)
class LastWill:
    """The message that the broker publishes when a connection ends without a DISCONNECT packet."""

    topic: str
    payload: bytes
    retain_seconds: float = 0.0
    """Time in seconds for which the broker retains the message on its topic; 0 means that it is not retained."""


class MqttCallbacks(Protocol):
    """The receiver of a connection's events."""

    def on_connected(self, max_packet_bytes: float, receive_maximum: float) -> None:
        """Handle an accepted connection.

        The broker accepts packets of at most ``max_packet_bytes`` bytes, and at most ``receive_maximum``
        unacknowledged packets.
        """

    def on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        """Handle a received message; ``retained`` states that the broker had retained it."""

    def on_acknowledged(self, packet_id: int, refusal: str, code: int) -> None:
        """Handle the acknowledgement of a packet.

        ``refusal`` is the reason why the broker has rejected it, or an empty string, and ``code`` is its reason code.
        """


class _ClosingSSLSocket(ssl.SSLSocket):
    """A TLS socket that is closed if its handshake fails, since the library would leave it open."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


class MqttClient(aiomqtt.Client):
    """One connection to a broker."""

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
        """Create a client that is not connected.

        ``timeout`` for an answer and ``ping_interval`` are in seconds. The broker sends packets of at most
        ``max_packet_bytes`` bytes.
        """
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
            # The library checks once a second, and brokers wait for 1.5 times the interval.
            keepalive=max(4, round(ping_interval)),
            will=_build_will(will),
            properties=_build_properties(PacketTypes.CONNECT, MaximumPacketSize=max_packet_bytes),
            tls_context=tls_context,
            max_inflight_messages=MAX_IN_FLIGHT_PACKETS,
            logger=_log,
        )
        self._client.connect_timeout = timeout
        self._callbacks = callbacks

    async def open_connection(self) -> None:
        """Connect as the library does, but in separate threads. Raise MqttFailure if that fails."""
        try:
            await asyncio.get_running_loop().run_in_executor(_EXECUTOR, self._client_connect)
            await self._wait_for(asyncio.shield(self._connected), None)  # the library sets _connected also later
        except OSError as error:
            self.abort()
            raise MqttFailure(cause=error) from None
        except aiomqtt.MqttError as error:
            self.abort()
            if isinstance(error, aiomqtt.MqttCodeError) and isinstance(error.rc, ReasonCode):
                raise MqttFailure(_describe_code(error.rc), error.rc.value) from None
            # The library's own text does not name the kind of error.
            raise MqttFailure(cause=error.__context__) from None
        except BaseException:
            self.abort()
            raise

    async def subscribe_topics(self, topics: list[str]) -> list[str]:
        """Subscribe to ``topics``, and return for each the reason why it was rejected, or an empty string.

        Raise MqttFailure if the request fails.
        """
        try:
            codes = await self.subscribe([(topic, 1) for topic in topics])
        except aiomqtt.MqttError as error:
            raise MqttFailure(cause=error.__context__) from None
        self._enable_quick_ack()
        return [_describe_code(code) if isinstance(code, ReasonCode) and code.is_failure else "" for code in codes]

    def publish_nowait(self, topic: str, payload: bytes | bytearray, *, reliable: bool, retain: bool) -> int:
        """Publish a message without waiting, and return the id of the packet."""
        return self._client.publish(topic, payload, int(reliable), retain).mid

    async def wait_closed(self) -> tuple[str, int]:
        """Wait until the connection ends, and return the broker's reason and its code, or an empty string and 0."""
        try:
            async for _ in self.messages:  # yields nothing, since _on_message passes messages to the callback
                pass
        except aiomqtt.MqttError as error:
            code = getattr(error.__cause__, "rc", None)
            if isinstance(code, ReasonCode) and code.value not in _SYNTHETIC_CODES:
                return _describe_code(code), code.value
        return "", 0

    async def close_connection(self, topics: list[str]) -> None:
        """Close the connection in order, so that the broker does not publish the will.

        First unsubscribe from ``topics``. A broker whose writes to this client fail might otherwise not read the
        DISCONNECT packet.
        """
        with contextlib.suppress(aiomqtt.MqttError):
            if topics:
                await self.unsubscribe(topics)
        with contextlib.suppress(aiomqtt.MqttError):
            await self.__aexit__(None, None, None)
        self.abort()

    def abort(self) -> None:
        """Close the connection without a DISCONNECT packet, so that the broker publishes the will."""
        if (open_socket := self._socket) is not None:
            with contextlib.suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)

    @property
    def _socket(self) -> Any:
        return self._client.socket()

    def _enable_quick_ack(self) -> None:
        """Acknowledge received TCP segments at once, since brokers delay small packets until then (Nagle, 40 ms)."""
        if _TCP_QUICKACK is not None and self._socket is not None:
            self._socket.setsockopt(socket.IPPROTO_TCP, _TCP_QUICKACK, 1)

    # ------------------------------------------------------------------ overridden callbacks of the library

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
        if not self._connected.done():  # otherwise the library would wait until its timeout
            self._connected.set_exception(aiomqtt.MqttError())
            self._connected.exception()  # prevents a warning of asyncio if the waiting task is cancelled
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
    properties: Properties = Properties(packet)  # type: ignore[no-untyped-call]
    for name, value in values.items():
        setattr(properties, name, value)
    return properties


def _describe_code(code: ReasonCode) -> str:
    """Return the text of a broker's reason code, which is from a list of the standard, and its number."""
    return f"{str(code).lower()}, {code.value:#04x}"
