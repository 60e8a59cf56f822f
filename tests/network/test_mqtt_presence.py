"""Who is on a broker: seen when they come, when they go, and when they are killed; and every node only once."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedws.core.errors import LinkLost, Unreachable, UsageError
from fedws.network.base import Channel, Limits
from fedws.network.mqtt import topics
from fedws.network.mqtt.session import BrokerSession
from fedws.network.mqtt.topics import CLAIMING, ONLINE, PROBE, EndToken
from fedws.network.transports.mqtt import MqttTransport
from tests.helpers.broker_links import HELLO, LIMITS, dialled, linked, stranger
from tests.helpers.federation import PATIENCE
from tests.helpers.mosquitto import PASSWORD, Mosquitto, mosquitto
from tests.helpers.processes import Processes
from tests.helpers.waiting import soon

QUICK = Limits(peer_timeout=12.0)
"""Two seconds for an answer, where none comes."""
ALREADY = "alice is already connected to this broker; give every node its own id"


@pytest.fixture
def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mosquitto]:
    monkeypatch.setenv("FEDWS_MQTT_PASSWORD", PASSWORD)
    with mosquitto(tmp_path / "broker") as found:
        yield found


async def nothing(channel: Channel) -> None:
    await asyncio.Event().wait()


async def retained(broker: Mosquitto) -> list[tuple[str, bytes]]:
    """What a broker holds."""
    async with stranger(broker) as other:
        await other.say("fedws/a/test", b"all before this was retained")
        await other.sees("fedws/a/test")
        return [(topic, payload) for topic, payload, before in other.seen if before]


async def test_a_node_is_seen_while_it_is_there_and_leaves_nothing(broker: Mosquitto) -> None:
    async with MqttTransport().serve(broker.url, nothing, LIMITS, node="alice"):
        ((topic, said),) = await retained(broker)
        assert topics.parse_presence_topic("alice", topic) is not None and said == ONLINE
    assert await retained(broker) == []


async def test_who_is_not_there_is_not_waited_for_long(broker: Mosquitto) -> None:
    async with MqttTransport().serve(broker.url, nothing, LIMITS, node="bob"):
        with pytest.raises(Unreachable, match=r"^alice is not connected to the broker$"):
            await dialled(broker.url, QUICK)
        channel = await dialled(broker.url, node="bob")
        await channel.close()


async def test_a_node_that_comes_while_it_is_dialled_is_found(broker: Mosquitto) -> None:
    dialling = asyncio.create_task(dialled(broker.url))
    async with stranger(broker) as other:
        while not any("fedws-to-alice" in line for line in broker.log):
            await other.say("fedws/a/test", b"passes the time")
        async with MqttTransport().serve(broker.url, nothing, LIMITS, node="alice"):
            await (await soon(dialling)).close()


# --------------------------------------------------------------------------- killed


async def test_a_node_that_is_killed_is_lost_at_once(broker: Mosquitto, tmp_path: Path) -> None:
    (tmp_path / "node").mkdir()
    processes = Processes(tmp_path / "node", {"FEDWS_MQTT_PASSWORD": PASSWORD})
    with contextlib.closing(processes):
        node = processes.fork("worker", "--id", "alice", *processes.tiny(), "--join", broker.url)
        await asyncio.to_thread(node.line, "alice is connected to the broker")
        channel = await dialled(broker.url)
        waiting = asyncio.create_task(channel.receive())
        os.kill(node.pid, signal.SIGKILL)
        with pytest.raises(LinkLost, match=r"^the node has disconnected from the broker$"):
            await soon(waiting)
        await channel.close()
        ((_, said),) = await retained(broker)
        assert len(said) == 32, "its will, for a minute, in the place of its presence"
    with pytest.raises(Unreachable, match="not connected to the broker"):
        await dialled(broker.url, QUICK)
    async with MqttTransport().serve(broker.url, nothing, LIMITS, node="alice"):
        assert [said for _, said in await retained(broker)] == [ONLINE], "it is swept away by the next one"


async def test_a_coordinator_that_vanishes_is_lost_at_once(broker: Mosquitto) -> None:
    async with linked(broker.url) as (near, far):
        waiting = asyncio.create_task(far.receive())
        near._sink.on_closed.__self__.abort()  # type: ignore[attr-defined]
        with pytest.raises(LinkLost, match=r"^the coordinator has disconnected from the broker$"):
            await soon(waiting)
        with pytest.raises(LinkLost, match=r"^the connection to the broker is lost$"):
            await soon(near.receive())


# --------------------------------------------------------------------------- twice


async def test_the_second_of_two_devices_with_one_id_is_refused_and_the_first_goes_on(broker: Mosquitto) -> None:
    async with linked(broker.url) as (near, far):
        with pytest.raises(UsageError, match=f": {ALREADY}$"):
            async with MqttTransport().serve(broker.url, nothing, LIMITS, node="alice"):
                raise AssertionError("there is one")
        await near.send(HELLO)
        assert await soon(far.receive()) == HELLO
        assert [said for _, said in await retained(broker)] == [ONLINE]


async def test_of_two_that_come_at_once_one_stays(broker: Mosquitto) -> None:
    done = asyncio.Event()
    up = asyncio.Queue[str]()

    async def serve() -> None:
        try:
            async with MqttTransport().serve(broker.url, nothing, LIMITS, node="alice"):
                up.put_nowait("up")
                await done.wait()
        except UsageError as error:
            up.put_nowait(str(error).partition(": ")[2])

    tasks = [asyncio.create_task(serve()) for _ in range(4)]
    assert sorted([await soon(up.get()) for _ in range(4)]) == [ALREADY] * 3 + ["up"]
    await (await dialled(broker.url)).close()
    done.set()
    await asyncio.gather(*tasks)
    assert await retained(broker) == []


async def test_what_a_dead_one_has_left_is_swept_away(broker: Mosquitto) -> None:
    """A presence whose end the broker has not noticed yet, or never will."""
    async with stranger(broker) as other:
        for instance, said in (
            ("1" * 32, ONLINE),
            ("2" * 32, CLAIMING),
            ("3" * 32, b"\0\1\2"),
            (EndToken().name, b"?"),
        ):
            await other.say(topics.presence_topic("alice", instance), said, retain=True)
        async with MqttTransport().serve(broker.url, nothing, QUICK, node="alice"):
            assert [said for _, said in await retained(broker)] == [ONLINE]


async def test_a_node_says_again_that_it_is_here_when_asked_or_denied(broker: Mosquitto) -> None:
    async with (
        linked(broker.url) as (near, far),
        stranger(broker) as other,
    ):
        topic = topics.presence_topic("alice", near._endpoint._ids.instance)
        for said, keep in ((PROBE, False), (b"", True), (bytes(32), True)):
            other.seen.clear()
            await other.say(topic, said, retain=keep)
            while await other.sees(topic) != ONLINE:
                await asyncio.sleep(0)
        assert [said for _, said in await retained(broker)] == [ONLINE]
        await near.send(HELLO)
        assert await soon(far.receive()) == HELLO, "a forged end closes no link"


async def test_a_node_finds_its_own_former_presence_and_asks_nobody(
    broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection was cut in a way that the broker does not know of yet."""
    sessions: list[BrokerSession] = []
    begin = BrokerSession.start

    async with stranger(broker) as other:

        async def again(self: BrokerSession, former: list[str]) -> None:
            if sessions:  # as if there had been no will
                await other.say(topics.presence_topic("alice", sessions[0].instance), ONLINE, retain=True)
            sessions.append(self)
            await begin(self, former)

        monkeypatch.setattr(BrokerSession, "start", again)
        async with MqttTransport().serve(broker.url, nothing, LIMITS, node="alice"):
            sessions[0]._broker.abort()
            async with asyncio.timeout(PATIENCE):
                while len(sessions) < 2 or await retained(broker) != [  # its new presence, and no longer the former
                    (topics.presence_topic("alice", sessions[1].instance), ONLINE)
                ]:
                    await asyncio.sleep(0)
            await (await dialled(broker.url)).close()
        assert not any(payload == PROBE for _, payload, _ in other.seen)
