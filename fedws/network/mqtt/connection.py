"""One connection to a broker, in our words."""

import asyncio
import contextlib
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

CONNECTION_LOST = "the broker's connection is lost"
MAX_PACKET_OVERHEAD_BYTES = 2048
"""Bytes of a packet beside its frame, at most: a topic and a few numbers."""
MAX_PAYLOAD_BYTES = 2**17
"""Bytes of a message in one frame: the fastest through Mosquitto. So much must get through within ``peer_timeout``."""
_LOGIN_REFUSED_CODES = (0x86, 0x87)
_NOT_AUTHORIZED_CODE = 0x87
MessageCallback = Callable[[str, bytes, bool], None]


class BrokerConnection:
    """A connection. What comes is handed to ``on_message``: topic, payload, and whether it is from before."""

    def __init__(
        self,
        address: BrokerAddress,
        tls: TlsConfig | None,
        client_id: str,
        will: LastWill,
        limits: Limits,
        on_message: MessageCallback,
    ) -> None:
        """``tls`` is None for a connection that is not encrypted."""
        self._address = address
        self._tls = tls
        self.on_message = on_message
        self._reply_timeout = limits.handshake_timeout
        self._max_in_flight = MAX_IN_FLIGHT_PACKETS
        self._in_flight: dict[int, str] = {}  # of packets that the broker has not acknowledged
        self._queue: deque[tuple[str, bytes | bytearray, bool]] = deque()  # packets that wait for these
        self._subscribed_topics: list[str] = []  # topics
        self._all_acknowledged = asyncio.Event()
        self._all_acknowledged.set()
        self._watch_task: asyncio.Task[None] | None = None
        self._closed = False
        self.lost_error: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        """The LinkError by which the connection was lost; never set when it was closed."""
        self.max_payload_bytes = MAX_PAYLOAD_BYTES
        """Bytes of a message in one frame, so that the broker takes the packet."""
        context = None if tls is None else tls.create_client_context()
        packet = MAX_FRAME_BYTES + MAX_PACKET_OVERHEAD_BYTES
        self._client = MqttClient(
            self,
            address,
            context,
            client_id,
            will,
            timeout=self._reply_timeout,
            ping_interval=limits.effective_ping_interval,
            max_packet_bytes=packet,
        )

    @property
    def user(self) -> str:
        """Who we are to it."""
        return self._address.user or "those without a user"

    @property
    def is_backlogged(self) -> bool:
        """Whether so much waits for the broker that no stranger should be answered."""
        return len(self._queue) > 2 * MAX_PENDING_CONNECTIONS

    def is_queued(self, topic: str) -> bool:
        """Whether something for a topic waits for the broker, and will be the last that was said there."""
        return any(topic == other for other, _, _ in self._queue)

    async def connect(self) -> None:
        """Raises Unreachable when there is no broker, and Refused when it does not let us in."""
        entering = asyncio.create_task(self._client.open_connection())
        try:
            await asyncio.shield(entering)
        except MqttFailure as failed:
            raise await self._explain_connect_failure(failed) from None
        except asyncio.CancelledError:  # a thread of the library may be at it, and cannot be stopped
            entering.add_done_callback(self._abort_late_connection)
            raise
        self._watch_task = asyncio.create_task(self._watch_connection())

    def _abort_late_connection(self, connecting: "asyncio.Task[None]") -> None:
        if not connecting.cancelled() and connecting.exception() is None:
            self._watch_task = asyncio.create_task(self._watch_connection())
            self.abort()

    async def _explain_connect_failure(self, failure: MqttFailure) -> LinkError:
        """What it means that there is no connection."""
        cause, encrypted = failure.cause, self._tls is not None
        if failure.code in _LOGIN_REFUSED_CODES:
            how = (
                "with this password" if self._address.password else "without a password: FEDWS_MQTT_PASSWORD is not set"
            )
            whom = f"{self._address.user} {how}" if self._address.user else self.user
            return LinkRefused("key", f"the broker does not let in {whom} ({failure})")
        if failure.code:
            return Unreachable(f"the broker does not take us ({failure})")
        if isinstance(cause, ssl.SSLCertVerificationError):
            return LinkRefused("key", explain_rejection(cause, self._address.host, self._tls or TlsConfig()))
        if isinstance(cause, ssl.SSLError) and cause.reason in PLAINTEXT_REASONS:
            return LinkRefused("key", "it is served without TLS; write mqtt://")
        if encrypted and isinstance(cause, ConnectionResetError | BrokenPipeError | ssl.SSLEOFError):
            return Unreachable("the connection ended during the TLS handshake: mqtts:// is for ports with TLS")
        if isinstance(cause, OSError):
            return Unreachable(describe_connect_error(cause))
        if not encrypted and await speaks_tls(self._address.host, self._address.port, self._reply_timeout):
            return LinkRefused("key", "it is served with TLS; write mqtts://")
        if self._tls is not None and self._tls.cert is None:
            return Unreachable("it hangs up: does it ask for a certificate? --tls-cert and --tls-key")
        return Unreachable("no MQTT 5 there: it ended the connection")

    async def subscribe(self, *topics: str) -> None:
        """Raises LinkRefused when one is not permitted, and LinkLost."""
        self._subscribed_topics = list(topics)
        try:
            refusals = await self._client.subscribe_topics(self._subscribed_topics)
        except MqttFailure as failed:
            silent = isinstance(failed.cause, TimeoutError)
            error = LinkLost("the broker does not answer" if silent else CONNECTION_LOST)
            raise self.lost_error.result() if self.lost_error.done() else error from None
        for topic, refused in zip(topics, refusals, strict=True):
            if refused:
                raise LinkRefused("policy", f"the broker does not let {self.user} read {topic} ({refused})")

    def publish(self, topic: str, payload: bytes | bytearray, *, reliable: bool = True, retain: bool = False) -> int:
        """Hand over a message; gives the bytes of its packet. What is ``reliable`` is acknowledged, or refused.

        A refusal ends the connection. Raises LinkError.
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
        """Send what waits, as long as the broker wants more at once."""
        while self._queue and len(self._in_flight) < self._max_in_flight:
            topic, payload, retain = self._queue.popleft()
            self._in_flight[self._client.publish_nowait(topic, payload, reliable=True, retain=retain)] = topic

    async def wait_for_event(self, event: asyncio.Event) -> bool:
        """Whether ``event`` is set within a sixth of ``peer_timeout``. Raises LinkError if the connection is lost."""
        waiting: asyncio.Future[Any] = asyncio.ensure_future(event.wait())
        both = {waiting, self.lost_error}
        try:
            await asyncio.wait(both, timeout=self._reply_timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if self.lost_error.done():
            raise self.lost_error.result()
        return event.is_set()

    async def flush(self) -> None:
        """Wait until the broker has acknowledged what was sent for sure, in a sixth of ``peer_timeout`` at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._reply_timeout):
                await self._all_acknowledged.wait()

    async def close(self) -> None:
        """End it in order: the broker says nothing of the will."""
        await self.flush()
        self._closed = True
        await self._client.close_connection([] if self.lost_error.done() else self._subscribed_topics)
        if self._watch_task is not None:
            await asyncio.wait([self._watch_task], timeout=self._reply_timeout)
            self._watch_task.cancel()

    def abort(self) -> None:
        """End it without a word."""
        self._client.abort()

    # ------------------------------------------------------------------ what is told of it

    def on_connected(self, max_packet_bytes: float, receive_maximum: float) -> None:
        """See :class:`fedws.network.mqtt.library.MqttCallbacks`."""
        self.max_payload_bytes = int(max(256, min(MAX_PAYLOAD_BYTES, max_packet_bytes - MAX_PACKET_OVERHEAD_BYTES)))
        self._max_in_flight = int(min(MAX_IN_FLIGHT_PACKETS, receive_maximum))

    def on_acknowledged(self, packet_id: int, refusal: str, code: int) -> None:
        """See :class:`fedws.network.mqtt.library.MqttCallbacks`."""
        topic = self._in_flight.pop(packet_id, "")
        self._send_queued()
        if not self._in_flight:
            self._all_acknowledged.set()
        if topic and refusal:
            reason = f"the broker does not let {self.user} write {topic} ({refusal})"
            self._set_lost_error(LinkRefused("policy", reason) if code == _NOT_AUTHORIZED_CODE else LinkLost(reason))

    async def _watch_connection(self) -> None:
        reported = await self._client.wait_closed()
        if not self._closed:
            self._set_lost_error(LinkLost(f"{CONNECTION_LOST}: {reported}" if reported else CONNECTION_LOST))

    def _set_lost_error(self, error: LinkError) -> None:
        if not self.lost_error.done():
            self.lost_error.set_result(error)
        self._all_acknowledged.set()


def packet_size(topic: str, size: int) -> int:
    """Bytes of a packet that is acknowledged, with a payload of so many (MQTT 5.0, section 3.3)."""
    rest = 2 + len(topic) + 2 + 1 + size
    return 1 + max(1, -(-rest.bit_length() // 7)) + rest
