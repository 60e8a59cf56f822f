"""The coordinator's side of a link over a broker: finds the node there, and opens the link."""

import asyncio
import secrets

from fedws.core.errors import LinkLost, Unreachable
from fedws.core.rate_limited_log import Complaints
from fedws.network.base import Limits
from fedws.network.mqtt import topics
from fedws.network.mqtt.broker_url import Address
from fedws.network.mqtt.channel import MqttChannel, Road
from fedws.network.mqtt.connection import Broker, packet
from fedws.network.mqtt.endpoint import End, Names
from fedws.network.mqtt.frames import Kind, Level, head
from fedws.network.mqtt.library import Said
from fedws.network.mqtt.topics import Will
from fedws.security.tls import Tls


class Dialler:
    """One link, on a connection of its own."""

    def __init__(self, address: Address, tls: Tls | None, node: str, limits: Limits, *, seal: bool) -> None:
        self._node = node
        self._limits = limits
        self._seal = seal
        will = Will()
        self._link = will.name
        self._instance = ""
        self._here = asyncio.Event()
        self._channel: MqttChannel | None = None
        self._complaints = Complaints(f"the link to {node}")
        gone = Said(topics.down(node, will.name), head(Kind.GONE, Level.PLAIN, 0) + will.token)
        self._broker = Broker(address, tls, f"fedws-to-{node}-{secrets.token_hex(4)}", gone, limits, self._hear)

    async def dial(self) -> MqttChannel:
        """Raises Unreachable when the node is not there, or does not answer; Refused when the broker lets us not."""
        await self._broker.connect()
        try:
            await self._broker.subscribe(topics.everything_here(self._node), topics.up(self._node, self._link))
            if not await self._broker.soon(self._here):
                raise Unreachable(f"{self._node} is not on the broker")
            channel = self._open()
            if not await self._broker.soon(channel.opened):
                raise Unreachable("it is on the broker, but does not answer")
        except BaseException:
            await self._broker.close()
            raise
        return channel

    def _open(self) -> MqttChannel:
        names = Names(self._node, self._instance, self._link)
        up, down = topics.up(self._node, self._link), topics.down(self._node, self._link)
        road = Road(
            post=lambda frame, sure: self._broker.publish(down, frame, sure=sure),
            packet=lambda size: packet(up, size),
            chunk=self._broker.chunk,
            complain=lambda what: self._complaints.hear(f"{what} was dropped"),
            release=self._broker.close,
        )
        self._channel = channel = MqttChannel(End(names, dialled=True, seal=self._seal), road, self._limits)
        self._broker.lost.add_done_callback(lambda lost: channel.fail(lost.result()))
        channel.open()
        return channel

    def _hear(self, topic: str, payload: bytes, before: bool) -> None:
        if topic == topics.up(self._node, self._link):
            if self._channel is not None:
                self._channel.hear(payload)
            return
        instance = topics.instance(self._node, topic)
        if payload == topics.HERE and instance and self._channel is None:
            self._instance = instance
            self._here.set()
        elif self._channel is not None and instance == self._instance and Will(payload).name == instance:
            self._channel.fail(LinkLost("the node is gone"))
