"""The coordinator's side of a link over a broker, which finds the node there and opens the link."""

import asyncio
import secrets

from fedws.core.errors import LinkLost, Unreachable
from fedws.core.rate_limited_log import RateLimitedLog
from fedws.network.base import Limits
from fedws.network.mqtt import topics
from fedws.network.mqtt.broker_url import BrokerAddress
from fedws.network.mqtt.channel import MqttChannel
from fedws.network.mqtt.connection import BrokerConnection, packet_size
from fedws.network.mqtt.endpoint import LinkEndpoint, LinkIds
from fedws.network.mqtt.frame_sink import FrameSink
from fedws.network.mqtt.frames import FrameKind, ProtectionLevel, pack_frame_header
from fedws.network.mqtt.library import LastWill
from fedws.network.mqtt.topics import EndToken
from fedws.security.tls import TlsConfig


class MqttDialer:
    """The opener of one link, which has its own connection to the broker."""

    def __init__(
        self, address: BrokerAddress, tls: TlsConfig | None, node: str, limits: Limits, *, encrypt_payloads: bool
    ) -> None:
        self._node = node
        self._limits = limits
        self._encrypt_payloads = encrypt_payloads
        self._has_tls = tls is not None
        will = EndToken()
        self._link = will.name
        self._instance = ""
        self._node_online = asyncio.Event()
        self._channel: MqttChannel | None = None
        self._rate_limited_log = RateLimitedLog(f"the link to {node}")
        gone = LastWill(
            topics.downlink_topic(node, will.name),
            pack_frame_header(FrameKind.GONE, ProtectionLevel.PLAIN, 0) + will.secret,
        )
        self._broker = BrokerConnection(
            address, tls, f"fedws-to-{node}-{secrets.token_hex(4)}", gone, limits, self._handle_message
        )

    async def connect(self) -> MqttChannel:
        """Connect to the broker and the node, and return the channel.

        Raise Unreachable if the broker or the node cannot be reached or does not answer. Raise LinkRefused if the
        broker rejects the connection or a topic.
        """
        await self._broker.connect()
        try:
            await self._broker.subscribe(
                topics.presence_filter(self._node), topics.uplink_topic(self._node, self._link)
            )
            if not await self._broker.wait_for_event(self._node_online):
                raise Unreachable(f"{self._node} is not connected to the broker")
            channel = self._open_link()
            if not await self._broker.wait_for_event(channel.opened):
                raise Unreachable("the node is connected to the broker, but does not answer")
        except BaseException:
            await self._broker.close()
            raise
        return channel

    def _open_link(self) -> MqttChannel:
        ids = LinkIds(self._node, self._instance, self._link)
        up, down = topics.uplink_topic(self._node, self._link), topics.downlink_topic(self._node, self._link)
        frame_sink = FrameSink(
            publish=lambda frame, reliable: self._broker.publish(down, frame, reliable=reliable),
            packet_size=lambda size: packet_size(up, size),
            max_payload_bytes=self._broker.max_payload_bytes,
            has_tls=self._has_tls,
            log_dropped=lambda frame: self._rate_limited_log.log(f"{frame} was dropped"),
            on_closed=self._broker.close,
        )
        self._channel = channel = MqttChannel(
            LinkEndpoint(ids, is_dialer=True, encrypt_payloads=self._encrypt_payloads), frame_sink, self._limits
        )
        self._broker.lost_error.add_done_callback(lambda lost: channel.fail(lost.result()))
        channel.send_open()
        return channel

    def _handle_message(self, topic: str, payload: bytes, retained: bool) -> None:
        if topic == topics.uplink_topic(self._node, self._link):
            if self._channel is not None:
                self._channel.handle_frame(payload)
            return
        instance = topics.parse_presence_topic(self._node, topic)
        if payload == topics.ONLINE and instance and self._channel is None:
            self._instance = instance
            self._node_online.set()
        elif self._channel is not None and instance == self._instance and EndToken(payload).name == instance:
            self._channel.fail(LinkLost("the node has disconnected from the broker"))
