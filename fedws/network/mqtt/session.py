"""A node's session on one connection to a broker, with its presence and all its links."""

import asyncio
import contextlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass

from fedws.core.errors import LinkError
from fedws.core.rate_limited_log import RateLimitedLog
from fedws.network.admission import BoundedConnectionSet
from fedws.network.base import Handler, Limits
from fedws.network.mqtt import topics
from fedws.network.mqtt.broker_url import BrokerAddress
from fedws.network.mqtt.channel import MqttChannel
from fedws.network.mqtt.connection import BrokerConnection, packet_size
from fedws.network.mqtt.endpoint import LinkEndpoint, LinkIds
from fedws.network.mqtt.frame_sink import FrameSink
from fedws.network.mqtt.frames import FrameKind, ProtectionLevel, pack_frame_header, parse_frame, parse_open
from fedws.network.mqtt.library import LastWill
from fedws.network.mqtt.presence import Presence
from fedws.network.mqtt.topics import EndToken
from fedws.security.tls import TlsConfig

WILL_RETENTION_SECONDS = 60.0
"""Time in seconds for which a broker retains the will of a node on its presence topic."""
# An unauthenticated peer gets this CLOSE as the first frame. It may be sent unreliably, since no frame precedes it.
_PLAIN_CLOSE_HEADER = pack_frame_header(FrameKind.CLOSE, ProtectionLevel.PLAIN, 0)


@dataclass(frozen=True)
class ListenerConfig:
    """The settings of a node that is served at a broker."""

    address: BrokerAddress
    tls: TlsConfig | None
    node: str
    handle: Handler
    limits: Limits
    encrypt_payloads: bool
    rate_limited_log: RateLimitedLog


class BrokerSession:
    """A node's session on one connection, from ``start`` until the connection is lost or closed."""

    def __init__(self, config: ListenerConfig, tasks: "set[asyncio.Task[None]]") -> None:
        """Create a session that is not started.

        ``tasks`` collects the tasks of all links, which may outlive this connection.
        """
        self._config = config
        self._tasks = tasks
        will = EndToken()
        self.instance = will.name
        node = config.node
        gone = LastWill(topics.presence_topic(node, will.name), will.secret, WILL_RETENTION_SECONDS)
        name = f"fedws-{node}-{secrets.token_hex(4)}"
        self._broker = BrokerConnection(config.address, config.tls, name, gone, config.limits, self._handle_message)
        self._presence = Presence(self._broker, node, will.name)
        self._pending_links, self._closing_links = BoundedConnectionSet(), BoundedConnectionSet()
        self._links: dict[str, MqttChannel] = {}

    async def start(self, former_instances: Collection[str]) -> None:
        """Connect to the broker and publish the node as online.

        Raise Unreachable if the broker cannot be reached, LinkRefused if it rejects the connection or a topic, LinkLost
        if the connection fails, and UsageError if another device is connected with the node's id.
        """
        node = self._config.node
        await self._broker.connect()
        try:
            await self._broker.subscribe(topics.presence_filter(node), topics.downlink_filter(node))
            await self._presence.claim_id(former_instances)
            await self._broker.flush()  # reports a rejection if the node may not write its presence topic
            if self._broker.lost_error.done():
                raise self._broker.lost_error.result()
        except BaseException:
            await self.close()
            raise

    async def wait_lost(self) -> LinkError:
        """Wait until the connection is lost, end all its links, and return the error."""
        error: LinkError = await asyncio.shield(self._broker.lost_error)
        for channel in self._links.values():
            channel.fail(error)
        await self._broker.close()
        return error

    async def close(self) -> None:
        """Withdraw the node from the broker and disconnect. The links should be closed before."""
        with contextlib.suppress(LinkError):
            self._presence.withdraw()
        await self._broker.close()

    # ------------------------------------------------------------------ links

    def _handle_message(self, topic: str, payload: bytes, retained: bool) -> None:
        node = self._config.node
        if (link := topics.parse_downlink_topic(node, topic)) is not None:
            if link in self._links:
                self._links[link].handle_frame(payload)
            elif (frame := parse_frame(payload)) and (fields := parse_open(frame)) and fields[0] == self.instance:
                self._open_link(link, encrypt_payloads=fields[1])
        elif (instance := topics.parse_presence_topic(node, topic)) is not None:
            self._presence.handle_message(instance, payload, retained=retained)

    def _open_link(self, link: str, *, encrypt_payloads: bool) -> None:
        """Open a link for a peer, unless the node is offline or too many packets wait for the broker.

        Without an answer, the peer retries.
        """
        if not self._presence.is_online or self._broker.is_backlogged:
            return
        config, up, down = (
            self._config,
            topics.uplink_topic(self._config.node, link),
            topics.downlink_topic(self._config.node, link),
        )
        ids = LinkIds(config.node, self.instance, link)
        sink = FrameSink(
            publish=lambda frame, reliable: self._broker.publish(
                up, frame, reliable=reliable and not frame.startswith(_PLAIN_CLOSE_HEADER)
            ),
            packet_size=lambda size: packet_size(down, size),
            max_payload_bytes=self._broker.max_payload_bytes,
            has_tls=config.tls is not None,
            log_dropped=lambda frame: config.rate_limited_log.log(f"{frame} was dropped"),
            on_authenticated=lambda: self._pending_links.discard(channel),
            on_closing=lambda: self._closing_links.add(
                channel, lambda: channel.close_nowait("too many links are closing")
            ),
        )
        channel = MqttChannel(
            LinkEndpoint(ids, is_dialer=False, encrypt_payloads=encrypt_payloads or config.encrypt_payloads),
            sink,
            config.limits,
        )
        self._links[link] = channel
        self._pending_links.add(channel, lambda: channel.close_nowait("too many unauthenticated connections"))
        with contextlib.suppress(LinkError):
            channel.send_open()
        task = asyncio.create_task(self._serve_link(link, channel))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve_link(self, link: str, channel: MqttChannel) -> None:
        timeout_seconds = self._config.limits.handshake_timeout
        handshake_timer = asyncio.get_running_loop().call_later(timeout_seconds, self._on_handshake_timeout, channel)
        reason = "the node ends"  # the reason if this task is cancelled before the handler returns
        try:
            await self._config.handle(channel)
            reason = ""
        except Exception:
            reason = "an error in the node"
            raise
        finally:
            handshake_timer.cancel()
            self._pending_links.discard(channel)
            await channel.close(reason)
            self._closing_links.discard(channel)
            del self._links[link]

    def _on_handshake_timeout(self, channel: MqttChannel) -> None:
        if not channel.authenticated:
            channel.close_nowait("no hello in time")
