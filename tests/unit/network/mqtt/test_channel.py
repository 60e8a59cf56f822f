"""A link over a broker and its time: who is dead is lost, whatever anybody else sends in its name."""

import asyncio
from collections.abc import Callable

import pytest

from fedws.core.errors import LinkLost
from fedws.network.base import Limits
from fedws.network.mqtt.channel import MqttChannel
from fedws.network.mqtt.encryption import NoProtection
from fedws.network.mqtt.endpoint import LinkEndpoint, LinkIds
from fedws.network.mqtt.frame_sink import FrameSink
from fedws.network.mqtt.frames import PING_PAYLOAD, FrameKind, ProtectionLevel, pack_frame_header
from fedws.network.mqtt.topics import EndToken
from tests.helpers.virtual_time import now, virtual

SILENCE = 60.0
Sends = Callable[[], bytes]


def protected(said: list[str]) -> MqttChannel:
    """A coordinator's end whose node has proved itself and is dead since."""
    road = FrameSink(
        publish=lambda frame, sure: len(frame),
        packet_size=lambda size: size,
        max_payload_bytes=1000,
        has_tls=False,
        log_dropped=said.append,
    )
    channel = MqttChannel(
        LinkEndpoint(LinkIds("alice", EndToken().name, EndToken().name), is_dialer=True, encrypt_payloads=True),
        road,
        Limits(),
    )
    channel.set_session_key(bytes(32))
    channel.mark_authenticated()
    return channel


FORGED: dict[str, Sends] = {
    "nothing": lambda: b"",
    "a plain sign of life": lambda: (
        pack_frame_header(FrameKind.PING, ProtectionLevel.PLAIN, 0) + PING_PAYLOAD.pack(0, 0)
    ),
    "one with a wrong tag": lambda: pack_frame_header(FrameKind.PING, ProtectionLevel.ENCRYPTED, 5) + bytes(32),
    "noise": lambda: b"\xff" * 40,
}


@pytest.mark.parametrize("what", FORGED)
@virtual
async def test_what_a_stranger_sends_keeps_no_link_alive(what: str) -> None:
    channel = protected([])
    reading = asyncio.create_task(channel.receive())
    while not reading.done() and now() < 10 * SILENCE:
        if data := FORGED[what]():
            channel.handle_frame(data)
        await asyncio.sleep(1)
    with pytest.raises(LinkLost, match="silent for 60 s"):
        await reading
    assert now() < 1.2 * SILENCE


@virtual
async def test_what_a_stranger_sends_after_the_proof_does_not_count_as_too_much_before_it() -> None:
    said: list[str] = []
    road = FrameSink(
        publish=lambda frame, sure: len(frame),
        packet_size=lambda size: size,
        max_payload_bytes=1000,
        has_tls=False,
        log_dropped=said.append,
    )
    channel = MqttChannel(
        LinkEndpoint(LinkIds("alice", EndToken().name, EndToken().name), is_dialer=True, encrypt_payloads=False),
        road,
        Limits(),
    )
    channel.set_session_key(bytes(32))
    for _ in range(100):
        channel.handle_frame(pack_frame_header(FrameKind.DATA, ProtectionLevel.AUTHENTICATED, 0) + bytes(100))
    channel.mark_authenticated()
    reading = asyncio.create_task(channel.receive())
    await asyncio.sleep(1)
    assert not reading.done() and len(said) == 100
    reading.cancel()
    channel.fail(LinkLost("the test ends"))


@virtual
async def test_how_much_has_come_is_seen_while_a_message_arrives() -> None:
    """By the gate, of a caller that has proved nothing, and by a node that looks whether its run is idle."""
    road = FrameSink(
        publish=lambda frame, sure: len(frame),
        packet_size=lambda size: size,
        max_payload_bytes=1000,
        has_tls=False,
        log_dropped=lambda what: None,
    )
    channel = MqttChannel(
        LinkEndpoint(LinkIds("alice", EndToken().name, EndToken().name), is_dialer=False, encrypt_payloads=False),
        road,
        Limits(),
    )
    assert (channel.bytes_received, channel.has_received_message, channel.is_receiving) == (0, False, False)
    channel.handle_frame(bytes(NoProtection().wrap(FrameKind.DATA, 0, b"half")))
    half = channel.bytes_received
    assert half > 0 and (channel.has_received_message, channel.is_receiving) == (False, True)
    channel.handle_frame(bytes(NoProtection().wrap(FrameKind.END, 1, b"of it")))
    assert channel.bytes_received > half and (channel.has_received_message, channel.is_receiving) == (True, False)
    channel.fail(LinkLost("the test ends"))
