"""Brokers that take a connection, and then say nothing."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from fedws.core.errors import LinkLost, Unreachable
from fedws.network.mqtt.broker_url import parse_broker_url
from fedws.network.mqtt.connection import BrokerConnection
from fedws.network.mqtt.library import LastWill
from fedws.network.transports.mqtt import MqttTransport
from tests.helpers.broker_links import LIMITS
from tests.helpers.waiting import soon


async def test_brokers_that_do_not_answer_leave_asyncio_its_threads() -> None:
    there, done = asyncio.Queue[None](), asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there.put_nowait(None)
        await done.wait()
        writer.close()

    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))  # of which the name of the host takes one
    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    async with server:
        url = f"mqtts://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        dials = [asyncio.create_task(MqttTransport(encrypted=True).connect(url, LIMITS, "alice")) for _ in range(8)]
        for _ in dials:
            await soon(there.get())
        await soon(asyncio.to_thread(lambda: None))
        assert not any(dial.done() for dial in dials), "they are in the TLS handshake"
        done.set()
        for dial in dials:
            with pytest.raises(Unreachable):
                await soon(dial)


async def test_a_broker_that_lets_in_and_says_no_more_is_said() -> None:
    async def dull(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x20\x03\0\0\0")  # a CONNACK
        await reader.read()
        writer.close()

    server = await asyncio.start_server(dull, "127.0.0.1", 0)
    async with server:
        where = parse_broker_url(f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}", {})
        broker = BrokerConnection(where, None, "test", LastWill("t", b""), LIMITS, lambda *_: None)
        await soon(broker.connect())
        broker._client.timeout = 0.1
        with pytest.raises(LinkLost, match=r"^the broker does not answer$"):
            await soon(broker.subscribe("t"))
        await soon(broker.close())
