"""A link over a broker and its time: who is dead is lost, whatever anybody else sends in its name."""

import asyncio
from collections.abc import Callable

import pytest

from fedws.core.errors import LinkLost
from fedws.network.base import Limits
from fedws.network.mqtt.channel import MqttChannel, Road
from fedws.network.mqtt.encryption import Plain
from fedws.network.mqtt.endpoint import End, Names
from fedws.network.mqtt.frames import BEAT, Kind, Level, head
from fedws.network.mqtt.topics import Will
from tests.helpers.virtual_time import now, virtual

SILENCE = 60.0
Sends = Callable[[], bytes]


def protected(said: list[str]) -> MqttChannel:
    """A coordinator's end whose node has proved itself and is dead since."""
    road = Road(post=lambda frame, sure: len(frame), packet=lambda size: size, chunk=1000, complain=said.append)
    channel = MqttChannel(End(Names("alice", Will().name, Will().name), dialled=True, seal=True), road, Limits())
    channel.protect(bytes(32))
    channel.admit()
    return channel


FORGED: dict[str, Sends] = {
    "nothing": lambda: b"",
    "a plain sign of life": lambda: head(Kind.BEAT, Level.PLAIN, 0) + BEAT.pack(0, 0),
    "one with a wrong tag": lambda: head(Kind.BEAT, Level.SEALED, 5) + bytes(32),
    "noise": lambda: b"\xff" * 40,
}


@pytest.mark.parametrize("what", FORGED)
@virtual
async def test_what_a_stranger_sends_keeps_no_link_alive(what: str) -> None:
    channel = protected([])
    reading = asyncio.create_task(channel.receive())
    while not reading.done() and now() < 10 * SILENCE:
        if data := FORGED[what]():
            channel.hear(data)
        await asyncio.sleep(1)
    with pytest.raises(LinkLost, match="silent for 60 s"):
        await reading
    assert now() < 1.2 * SILENCE


@virtual
async def test_what_a_stranger_sends_after_the_proof_does_not_count_as_too_much_before_it() -> None:
    said: list[str] = []
    road = Road(post=lambda frame, sure: len(frame), packet=lambda size: size, chunk=1000, complain=said.append)
    channel = MqttChannel(End(Names("alice", Will().name, Will().name), dialled=True, seal=False), road, Limits())
    channel.protect(bytes(32))
    for _ in range(100):
        channel.hear(head(Kind.DATA, Level.TAGGED, 0) + bytes(100))
    channel.admit()
    reading = asyncio.create_task(channel.receive())
    await asyncio.sleep(1)
    assert not reading.done() and len(said) == 100
    reading.cancel()
    channel.fail(LinkLost("the test ends"))


@virtual
async def test_how_much_has_come_is_seen_while_a_message_arrives() -> None:
    """By the gate, of a caller that has proved nothing, and by a node that looks whether its run is idle."""
    road = Road(post=lambda frame, sure: len(frame), packet=lambda size: size, chunk=1000, complain=lambda what: None)
    channel = MqttChannel(End(Names("alice", Will().name, Will().name), dialled=False, seal=False), road, Limits())
    assert (channel.received, channel.greeted, channel.arriving) == (0, False, False)
    channel.hear(bytes(Plain().wrap(Kind.DATA, 0, b"half")))
    half = channel.received
    assert half > 0 and (channel.greeted, channel.arriving) == (False, True)
    channel.hear(bytes(Plain().wrap(Kind.END, 1, b"of it")))
    assert channel.received > half and (channel.greeted, channel.arriving) == (True, False)
    channel.fail(LinkLost("the test ends"))
