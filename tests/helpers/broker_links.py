"""Links over a real broker, and other clients of it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiomqtt

from fedws.network.base import Channel, Limits
from fedws.network.mqtt.channel import MqttChannel
from fedws.network.mqtt.frames import FrameKind
from fedws.network.transports.mqtt import MqttTransport
from fedws.protocol.messages import Hello
from tests.helpers.federation import PATIENCE
from tests.helpers.mosquitto import PASSWORD, Mosquitto
from tests.helpers.waiting import soon

LIMITS = Limits(max_message_bytes=2**28, peer_timeout=60.0)
SECRET = bytes(range(32))
HELLO = Hello(run="r", node="alice", protocol=1)


async def dialled(url: str, limits: Limits = LIMITS, node: str = "alice", *, seal: bool = False) -> MqttChannel:
    """Open the coordinator's end of a link."""
    channel = await soon(MqttTransport().connect(url, limits, node, encrypt_payloads=seal))
    assert isinstance(channel, MqttChannel)
    return channel


@contextlib.asynccontextmanager
async def linked(
    url: str, limits: Limits = LIMITS, *, protected: bool = True, seal: bool = False
) -> AsyncIterator[tuple[MqttChannel, MqttChannel]]:
    """Return both ends of a link after the handshake, the coordinator's first."""
    arrived: asyncio.Queue[MqttChannel] = asyncio.Queue()
    done = asyncio.Event()

    async def handle(channel: Channel) -> None:
        assert isinstance(channel, MqttChannel)
        arrived.put_nowait(channel)
        await done.wait()

    async with MqttTransport().serve(url, handle, limits, node="alice", encrypt_payloads=seal):
        near = await dialled(url, limits, seal=seal)
        far: MqttChannel = await soon(arrived.get())
        for end in (near, far):
            if protected:
                end.set_session_key(SECRET)
            end.mark_authenticated()
        try:
            yield near, far
        finally:
            done.set()
            await near.close()


class Stranger:
    """Another client of the broker, which reads all messages and publishes to any topic."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self._client = client
        self.seen: list[tuple[str, bytes, bool]] = []
        """Topic, payload and retain flag of each message."""
        self._news = asyncio.Condition()

    async def say(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish a message, and wait until the broker has it."""
        await self._client.publish(topic, payload, 1, retain)

    async def sees(self, topic: str, kind: int | None = None) -> bytes:
        """Wait for the newest message on a topic with this end and, if given, this first byte."""

        def found() -> list[bytes]:
            return [
                payload
                for where, payload, _ in self.seen
                if where.endswith(topic) and (kind is None or (payload and payload[0] & 0x3F == kind))
            ]

        async with asyncio.timeout(PATIENCE), self._news:
            await self._news.wait_for(found)
            return found()[-1]

    async def sees_closed(self, count: int) -> dict[str, bytes]:
        """Wait until the node has closed so many links; return the payload of each by its topic."""

        def found() -> dict[str, bytes]:
            return {topic: payload[9:] for topic, payload, _ in self.seen if payload[:1] == bytes([FrameKind.CLOSE])}

        async with asyncio.timeout(PATIENCE), self._news:
            await self._news.wait_for(lambda: len(found()) >= count)
            return found()

    async def sees_topic(self, part: str) -> str:
        """Wait for a topic that contains this text and has a message; return the newest."""

        def found() -> list[str]:
            return [topic for topic, payload, _ in self.seen if part in topic and payload]

        async with asyncio.timeout(PATIENCE), self._news:
            await self._news.wait_for(found)
            return found()[-1]

    async def read(self) -> None:
        """Read all messages until the connection ends."""
        with contextlib.suppress(aiomqtt.MqttError):
            async for message in self._client.messages:
                assert isinstance(message.payload, bytes)
                async with self._news:
                    self.seen.append((str(message.topic), message.payload, message.retain))
                    self._news.notify_all()


@contextlib.asynccontextmanager
async def stranger(broker: Mosquitto, topics: str = "#") -> AsyncIterator[Stranger]:
    """Connect a client with an account at the broker."""
    client = aiomqtt.Client(
        "localhost", broker.port, username="fedws", password=PASSWORD, protocol=aiomqtt.ProtocolVersion.V5
    )
    client.pending_calls_threshold = 10_000
    async with client:
        await client.subscribe(topics, qos=1)
        found = Stranger(client)
        reading = asyncio.create_task(found.read())
        try:
            yield found
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
