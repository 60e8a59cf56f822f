"""The connection to a broker, with the errors of fedws."""

import asyncio
import contextlib
import math
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any

from fedws.core.errors import LinkError, LinkLost, LinkRefused, Unreachable
from fedws.network.admission import MAX_PENDING_CONNECTIONS
from fedws.network.base import Limits
from fedws.network.connect_errors import PLAINTEXT_REASONS, describe_connect_error, speaks_tls
from fedws.network.mqtt.broker_url import BrokerAddress
from fedws.network.mqtt.frames import MAX_FRAME_BYTES
from fedws.network.mqtt.library import MAX_IN_FLIGHT_PACKETS, LastWill, MqttClient, MqttFailure
from fedws.security.tls import TlsConfig, explain_rejection

CONNECTION_LOST = "the connection to the broker is lost"
MAX_PACKET_OVERHEAD_BYTES = 2048
"""Largest overhead of a packet in bytes besides its frame: a topic and a few numbers."""
MAX_PAYLOAD_BYTES = 2**17
"""Largest part of a message in one frame, in bytes.

This size is the fastest with Mosquitto. One such part must be transferred within ``peer_timeout``.
"""
MIN_PAYLOAD_BYTES = 256
"""Smallest part of a message in one frame, in bytes, with which links work at an acceptable speed."""
_MIN_PACKET_BYTES = MIN_PAYLOAD_BYTES + MAX_PACKET_OVERHEAD_BYTES
_LOGIN_REFUSED_CODES = (0x86, 0x87)
_NOT_AUTHORIZED_CODE = 0x87
_PACKET_TOO_LARGE_CODES = (0x82, 0x95)
"""Codes of a broker for a message above its limit; 0x82, a protocol error, is Mosquitto's for message_size_limit."""
_PACKET_REMEDY = "raise max_packet_size and message_size_limit in the broker's settings"
MessageCallback = Callable[[str, bytes, bool], None]


class BrokerConnection:
    """One connection to a broker.

    It calls ``on_message`` for each received message, with the topic, the payload, and whether it was retained.
    """

    def __init__(
        self,
        address: BrokerAddress,
        tls: TlsConfig | None,
        client_id: str,
        will: LastWill,
        limits: Limits,
        on_message: MessageCallback,
    ) -> None:
        """Create a connection that is not yet open. Without ``tls``, it is not encrypted."""
        self._address = address
        self._tls = tls
        self.on_message = on_message
        self._reply_timeout = limits.handshake_timeout
        self._max_in_flight = MAX_IN_FLIGHT_PACKETS
        self._in_flight: dict[int, str] = {}  # topics by packet id, of packets that are not acknowledged
        self._queue: deque[tuple[str, bytes | bytearray, bool]] = deque()  # packets that wait for these
        self._subscribed_topics: list[str] = []
        self._all_acknowledged = asyncio.Event()
        self._all_acknowledged.set()
        self._watch_task: asyncio.Task[None] | None = None
        self._closed = False
        self.lost_error: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        """Future with the LinkError of a lost connection; it stays pending if this side closes the connection."""
        self.max_payload_bytes = MAX_PAYLOAD_BYTES
        """Largest part of a message in one frame, in bytes, for which the broker accepts the packet."""
        context = None if tls is None else tls.create_client_context()
        self._max_packet_bytes = math.inf
        max_packet_bytes = MAX_FRAME_BYTES + MAX_PACKET_OVERHEAD_BYTES
        self._client = MqttClient(
            self,
            address,
            context,
            client_id,
            will,
            timeout=self._reply_timeout,
            ping_interval=limits.effective_ping_interval,
            max_packet_bytes=max_packet_bytes,
        )

    @property
    def user(self) -> str:
        """Name of the user at the broker, for messages."""
        return self._address.user or "clients without a user name"

    @property
    def is_backlogged(self) -> bool:
        """True if so many packets wait for the broker that unauthenticated peers should not be answered."""
        return len(self._queue) > 2 * MAX_PENDING_CONNECTIONS

    def is_queued(self, topic: str) -> bool:
        """Return whether a packet for ``topic`` waits in the queue, so that it will replace the topic's payload."""
        return any(topic == other for other, _, _ in self._queue)

    async def connect(self) -> None:
        """Connect to the broker.

        Raise Unreachable if the broker cannot be reached, and LinkRefused if it rejects the login or the TLS settings
        do not match.
        """
        connecting = asyncio.create_task(self._client.open_connection())
        try:
            await asyncio.shield(connecting)
        except MqttFailure as failure:
            raise await self._explain_connect_failure(failure) from None
        except asyncio.CancelledError:  # a thread of the library may be connecting, and cannot be stopped
            connecting.add_done_callback(self._abort_late_connection)
            raise
        self._watch_task = asyncio.create_task(self._watch_connection())
        if self._max_packet_bytes < _MIN_PACKET_BYTES:
            self._closed = True
            self.abort()
            raise LinkRefused(
                "policy",
                f"the broker accepts packets of at most {self._max_packet_bytes:,.0f} bytes, and fedws requires "
                f"{_MIN_PACKET_BYTES:,}; {_PACKET_REMEDY}",
            )

    def _abort_late_connection(self, connecting: "asyncio.Task[None]") -> None:
        if not connecting.cancelled() and connecting.exception() is None:
            self._watch_task = asyncio.create_task(self._watch_connection())
            self.abort()

    async def _explain_connect_failure(self, failure: MqttFailure) -> LinkError:
        """Return the error for a failed connection attempt."""
        cause, encrypted = failure.cause, self._tls is not None
        if failure.code in _LOGIN_REFUSED_CODES:
            password = (
                "with this password" if self._address.password else "without a password: FEDWS_MQTT_PASSWORD is not set"
            )
            login = f"{self._address.user} {password}" if self._address.user else self.user
            return LinkRefused("key", f"the broker does not accept {login} ({failure})")
        if failure.code:
            return Unreachable(f"the broker rejected the connection ({failure})")
        if isinstance(cause, ssl.SSLCertVerificationError):
            return LinkRefused("key", explain_rejection(cause, self._address.host, self._tls or TlsConfig()))
        if isinstance(cause, ssl.SSLError) and cause.reason in PLAINTEXT_REASONS:
            return LinkRefused("key", "the broker does not use TLS; use mqtt://")
        if encrypted and isinstance(cause, ConnectionResetError | BrokenPipeError | ssl.SSLEOFError):
            return Unreachable("the connection ended during the TLS handshake; mqtts:// requires a port with TLS")
        if isinstance(cause, OSError):
            return Unreachable(describe_connect_error(cause))
        if not encrypted and await speaks_tls(self._address.host, self._address.port, self._reply_timeout):
            return LinkRefused("key", "the broker uses TLS; use mqtts://")
        if self._tls is not None and self._tls.cert is None:
            return Unreachable(
                "the broker closed the connection; if it requires client certificates, set --tls-cert and --tls-key"
            )
        return Unreachable("the server closed the connection; check that it supports MQTT 5")

    async def subscribe(self, *topics: str) -> None:
        """Subscribe to ``topics``. Raise LinkRefused if one is not permitted, and LinkLost if the connection fails."""
        self._subscribed_topics = list(topics)
        try:
            refusals = await self._client.subscribe_topics(self._subscribed_topics)
        except MqttFailure as failure:
            timed_out = isinstance(failure.cause, TimeoutError)
            error = LinkLost("the broker does not answer" if timed_out else CONNECTION_LOST)
            raise self.lost_error.result() if self.lost_error.done() else error from None
        for topic, refusal in zip(topics, refusals, strict=True):
            if refusal:
                raise LinkRefused("policy", f"the broker does not allow {self.user} to read {topic} ({refusal})")

    def publish(self, topic: str, payload: bytes | bytearray, *, reliable: bool = True, retain: bool = False) -> int:
        """Publish a message without waiting, and return the size of its packet in bytes.

        The broker acknowledges or rejects a ``reliable`` message. A rejection ends the connection. Raise LinkError if
        the connection is lost.
        """
        if self.lost_error.done():
            raise self.lost_error.result()
        if not reliable:
            self._client.publish_nowait(topic, payload, reliable=False, retain=retain)
        else:
            self._queue.append((topic, payload, retain))
            self._all_acknowledged.clear()
            self._send_queued()
        return packet_size(topic, len(payload))

    def _send_queued(self) -> None:
        """Send queued packets up to the number of unacknowledged packets that the broker permits."""
        while self._queue and len(self._in_flight) < self._max_in_flight:
            topic, payload, retain = self._queue.popleft()
            self._in_flight[self._client.publish_nowait(topic, payload, reliable=True, retain=retain)] = topic

    async def wait_for_event(self, event: asyncio.Event) -> bool:
        """Wait for ``event`` and return whether it is set within a sixth of ``peer_timeout``.

        Raise LinkError if the connection is lost.
        """
        event_set: asyncio.Future[Any] = asyncio.ensure_future(event.wait())
        futures = {event_set, self.lost_error}
        try:
            await asyncio.wait(futures, timeout=self._reply_timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            event_set.cancel()
        if self.lost_error.done():
            raise self.lost_error.result()
        return event.is_set()

    async def flush(self) -> None:
        """Wait until the broker has acknowledged all reliable packets, at most a sixth of ``peer_timeout``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._reply_timeout):
                await self._all_acknowledged.wait()

    async def close(self) -> None:
        """Close the connection in order, so that the broker does not publish the will."""
        await self.flush()
        self._closed = True
        await self._client.close_connection([] if self.lost_error.done() else self._subscribed_topics)
        if self._watch_task is not None:
            await asyncio.wait([self._watch_task], timeout=self._reply_timeout)
            self._watch_task.cancel()

    def abort(self) -> None:
        """Close the connection without a DISCONNECT packet, so that the broker publishes the will."""
        self._client.abort()

    # ------------------------------------------------------------------ callbacks of the client

    def on_connected(self, max_packet_bytes: float, receive_maximum: float) -> None:
        """See ``fedws.network.mqtt.library.MqttCallbacks``."""
        self._max_packet_bytes = max_packet_bytes
        self.max_payload_bytes = int(min(MAX_PAYLOAD_BYTES, max_packet_bytes - MAX_PACKET_OVERHEAD_BYTES))
        self._max_in_flight = int(min(MAX_IN_FLIGHT_PACKETS, receive_maximum))

    def on_acknowledged(self, packet_id: int, refusal: str, code: int) -> None:
        """See ``fedws.network.mqtt.library.MqttCallbacks``."""
        topic = self._in_flight.pop(packet_id, "")
        self._send_queued()
        if not self._in_flight:
            self._all_acknowledged.set()
        if topic and refusal:
            reason = f"the broker does not allow {self.user} to write {topic} ({refusal})"
            if code in _PACKET_TOO_LARGE_CODES:
                size = packet_size(topic, self.max_payload_bytes)
                reason = f"the broker rejects packets of up to {size:,} bytes ({refusal}); {_PACKET_REMEDY}"
            self._set_lost_error(LinkRefused("policy", reason) if code == _NOT_AUTHORIZED_CODE else LinkLost(reason))

    async def _watch_connection(self) -> None:
        reason, code = await self._client.wait_closed()
        if code in _PACKET_TOO_LARGE_CODES:
            reason += f"; if it limits the size of messages, {_PACKET_REMEDY}"
        if not self._closed:
            self._set_lost_error(LinkLost(f"{CONNECTION_LOST}: {reason}" if reason else CONNECTION_LOST))

    def _set_lost_error(self, error: LinkError) -> None:
        if not self.lost_error.done():
            self.lost_error.set_result(error)
        self._all_acknowledged.set()


def packet_size(topic: str, size: int) -> int:
    """Return the size in bytes of an acknowledged packet with a payload of ``size`` bytes (MQTT 5.0, section 3.3)."""
    remaining = 2 + len(topic) + 2 + 1 + size
    return 1 + max(1, -(-remaining.bit_length() // 7)) + remaining
