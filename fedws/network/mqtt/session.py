"""A node on one connection to a broker: here, with all its links."""

import asyncio
import contextlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass

from fedws.core.errors import LinkError
from fedws.core.rate_limited_log import Complaints
from fedws.network.admission import Gate
from fedws.network.base import Handler, Limits
from fedws.network.mqtt import topics
from fedws.network.mqtt.broker_url import Address
from fedws.network.mqtt.channel import MqttChannel, Road
from fedws.network.mqtt.connection import Broker, packet
from fedws.network.mqtt.endpoint import End, Names
from fedws.network.mqtt.frames import Kind, Level, head, opened, parse
from fedws.network.mqtt.library import Said
from fedws.network.mqtt.presence import Presence
from fedws.network.mqtt.topics import Will
from fedws.security.tls import Tls

KEPT = 60.0
"""Seconds for which a broker keeps the will of a node in the place where the node was."""
_FAREWELL = head(Kind.CLOSE, Level.PLAIN, 0)  # to strangers: nothing was said before that it could overtake


@dataclass(frozen=True)
class Served:
    """What is served, and where."""

    address: Address
    tls: Tls | None
    node: str
    handle: Handler
    limits: Limits
    seal: bool
    complaints: Complaints


class Session:
    """One connection, from :meth:`begin` until it is lost or ended."""

    def __init__(self, served: Served, tasks: "set[asyncio.Task[None]]") -> None:
        """``tasks`` are those of all links, which may outlast this connection."""
        self._served = served
        self._tasks = tasks
        will = Will()
        self.instance = will.name
        node = served.node
        gone = Said(topics.here(node, will.name), will.token, KEPT)
        name = f"fedws-{node}-{secrets.token_hex(4)}"
        self._broker = Broker(served.address, served.tls, name, gone, served.limits, self._hear)
        self._presence = Presence(self._broker, node, will.name)
        self._gate, self._closing = Gate(), Gate()
        self._links: dict[str, MqttChannel] = {}

    async def begin(self, former: Collection[str]) -> None:
        """Be there. Raises Unreachable, Refused, LinkLost, and UsageError when another one is there by this name."""
        node = self._served.node
        await self._broker.connect()
        try:
            await self._broker.subscribe(topics.everything_here(node), topics.everything_down(node))
            await self._presence.claim(former)
            await self._broker.flush()  # which is refused where the node may not say it
            if self._broker.lost.done():
                raise self._broker.lost.result()
        except BaseException:
            await self.end()
            raise

    async def lost(self) -> LinkError:
        """Wait until the connection is lost, and all links with it; gives why."""
        error: LinkError = await asyncio.shield(self._broker.lost)
        for channel in self._links.values():
            channel.fail(error)
        await self._broker.close()
        return error

    async def end(self) -> None:
        """Be there no more; links should have been closed before."""
        with contextlib.suppress(LinkError):
            self._presence.withdraw()
        await self._broker.close()

    # ------------------------------------------------------------------ links

    def _hear(self, topic: str, payload: bytes, before: bool) -> None:
        node = self._served.node
        if (link := topics.link(node, topic)) is not None:
            if link in self._links:
                self._links[link].hear(payload)
            elif (frame := parse(payload)) and (found := opened(frame)) and found[0] == self.instance:
                self._open(link, seal=found[1])
        elif (instance := topics.instance(node, topic)) is not None:
            self._presence.hear(instance, payload, before=before)

    def _open(self, link: str, *, seal: bool) -> None:
        """Somebody dials; they have no answer while others' frames are held up, and dial again."""
        if not self._presence.here or self._broker.crowded:
            return
        served, up, down = self._served, topics.up(self._served.node, link), topics.down(self._served.node, link)
        names = Names(served.node, self.instance, link)
        road = Road(
            post=lambda frame, sure: self._broker.publish(up, frame, sure=sure and not frame.startswith(_FAREWELL)),
            packet=lambda size: packet(down, size),
            chunk=self._broker.chunk,
            complain=lambda what: served.complaints.hear(f"{what} was dropped"),
            admitted=lambda: self._gate.leave(channel),
            closing=lambda: self._closing.enter(channel, lambda: channel.dismiss("too many are being closed")),
        )
        channel = MqttChannel(End(names, dialled=False, seal=seal or served.seal), road, served.limits)
        self._links[link] = channel
        self._gate.enter(channel, lambda: channel.dismiss("too many are at the door"))
        with contextlib.suppress(LinkError):
            channel.open()
        task = asyncio.create_task(self._serve(link, channel))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, link: str, channel: MqttChannel) -> None:
        patience = self._served.limits.silence / 6
        door = asyncio.get_running_loop().call_later(patience, self._too_late, channel)
        reason = "the node ends"  # as long as the handler has not returned
        try:
            await self._served.handle(channel)
            reason = ""
        except Exception:
            reason = "an error in the node"
            raise
        finally:
            door.cancel()
            self._gate.leave(channel)
            await channel.close(reason)
            self._closing.leave(channel)
            del self._links[link]

    def _too_late(self, channel: MqttChannel) -> None:
        if not channel.admitted:
            channel.dismiss("no hello in time")
