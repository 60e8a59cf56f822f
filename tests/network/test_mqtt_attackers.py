"""Others who have an account on the broker: they can neither change a link, nor end it, nor read what is sealed."""

import asyncio
import logging
from collections.abc import Collection, Iterator

import pytest
import torch

from fedws.core.errors import LinkLost, LinkRefused
from fedws.core.rate_limited_log import RateLimitedLog
from fedws.network.admission import MAX_PENDING_CONNECTIONS, MQTT_ALLOWANCE
from fedws.network.base import MAX_HANDSHAKE_MESSAGE_BYTES, Channel, Limits
from fedws.network.mqtt import topics
from fedws.network.mqtt.connection import BrokerConnection
from fedws.network.mqtt.encryption import NoProtection
from fedws.network.mqtt.frames import FrameKind, ProtectionLevel, pack_frame_header, pack_open
from fedws.network.mqtt.session import BrokerSession
from fedws.network.mqtt.topics import ONLINE, PROBE, EndToken
from fedws.network.transports.mqtt import MqttTransport
from fedws.node.server import serve
from fedws.protocol.messages import Hello, TaskRequest
from tests.helpers.broker_links import HELLO, LIMITS, SECRET, Stranger, dialled, linked, stranger
from tests.helpers.federation import worker
from tests.helpers.keyed_runs import KEY
from tests.helpers.mosquitto import PASSWORD, Mosquitto, mosquitto
from tests.helpers.waiting import soon

both = pytest.mark.parametrize("seal", [False, True])


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with mosquitto(tmp_path_factory.mktemp("broker")) as found:
        yield found


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("FEDWS_MQTT_PASSWORD", PASSWORD)
    monkeypatch.setattr(RateLimitedLog, "INTERVAL_SECONDS", 0.0)  # else a test would hear the first one alone
    caplog.set_level(logging.WARNING, "fedws")


def number(turn: int) -> Hello:
    return Hello(run=str(turn), node="alice", protocol=1)


@both
async def test_what_others_send_on_a_link_is_dropped_and_said(
    broker: Mosquitto, caplog: pytest.LogCaptureFixture, seal: bool
) -> None:
    async with stranger(broker) as other, linked(broker.url, seal=seal) as (near, far):
        link = near._endpoint._ids.link
        for way, sender, receiver in (("down", near, far), ("up", far, near)):
            await sender.send(number(1))
            ours = await other.sees(f"/{way}", FrameKind.END)
            topic = f"fedws/1/alice/link/{link}/{way}"
            altered = bytearray(ours)
            altered[-1] ^= 1
            forged = [
                ours,  # once more
                bytes(altered),
                NoProtection().wrap(FrameKind.END, 1, b"forged"),
                NoProtection().wrap(FrameKind.CLOSE, 1, b"\0the stranger ends it"),
                pack_frame_header(
                    FrameKind.CLOSE, ProtectionLevel.ENCRYPTED if seal else ProtectionLevel.AUTHENTICATED, 1
                )
                + bytes(16),
                NoProtection().wrap(FrameKind.OPEN, 0, pack_open(near._endpoint._ids.instance, encrypt_payloads=False)),
                pack_frame_header(FrameKind.GONE, ProtectionLevel.PLAIN, 0) + bytes(32),
                await other.sees(f"/{'up' if way == 'down' else 'down'}", FrameKind.OPEN),
                b"",
                b"\xff" * 1000,
            ]
            caplog.clear()
            for data in forged:
                await other.say(topic, data)
            for turn in (2, 3):
                await sender.send(number(turn))
            assert [(await soon(receiver.receive())).run for _ in range(3)] == ["1", "2", "3"]
            assert sum("was dropped" in line for line in caplog.messages) == len(forged), caplog.messages
            assert any("a duplicate frame was dropped" in line for line in caplog.messages)
            assert any("a frame with a wrong tag was dropped" in line for line in caplog.messages)


@both
async def test_a_frame_that_the_broker_drops_is_a_lost_link(
    broker: Mosquitto, monkeypatch: pytest.MonkeyPatch, seal: bool
) -> None:
    async with linked(broker.url, seal=seal) as (near, far):
        publish = BrokerConnection.publish

        def dropping(self: BrokerConnection, topic: str, payload: bytes, **more: bool) -> int:
            monkeypatch.setattr(BrokerConnection, "publish", publish)
            return len(payload)

        monkeypatch.setattr(BrokerConnection, "publish", dropping)
        await near.send(number(1))
        await near.send(number(2))
        with pytest.raises(LinkLost, match=r"^a frame is missing$"):
            await soon(far.receive())
        with pytest.raises(LinkLost, match=r"^a frame is missing$"):
            await soon(near.receive())


async def test_the_last_frame_that_the_broker_drops_is_awaited_and_then_a_lost_link(
    broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing comes after it but signs of life."""
    async with linked(broker.url, Limits(peer_timeout=6.0)) as (near, far):
        with monkeypatch.context() as patch:
            patch.setattr(BrokerConnection, "publish", lambda *given, **more: 0)
            await near.send(number(1))
        with pytest.raises(LinkLost, match=r"^too slow: 0 bytes of a message in 6 s$"):
            await soon(far.receive())
        with pytest.raises(LinkLost, match=r"^given up: too slow: 0 bytes"):
            await soon(near.receive())


@both
async def test_a_sealed_model_cannot_be_read_on_the_broker(broker: Mosquitto, seal: bool) -> None:
    model = torch.arange(2**17, dtype=torch.int64) * 0x9E3779B97F4A7C1
    bits = model.numpy().tobytes()
    message = TaskRequest(request_id="secret-order", worker="alice", round=1, task="t", tensors={"layer.weight": model})
    async with stranger(broker) as other, linked(broker.url, seal=seal) as (near, far):
        sending = asyncio.create_task(near.send(message))
        found = await soon(far.receive())
        await soon(sending)
        assert torch.equal(found.tensors["layer.weight"], model)
        await far.send(message)
        await soon(near.receive())
        await other.sees("/up", FrameKind.END)
        seen = b"".join(payload for _, payload, _ in other.seen)
    assert len(seen) > 2 * len(bits)
    samples = [bits[start : start + 16] for start in range(2**10, len(bits), 2**14)]
    for plain in (b"secret-order", b"layer.weight", *samples):
        assert (plain in seen) is not seal, "all of it without a seal, nothing with one"


@pytest.mark.parametrize("wishes", [(True, False), (False, True)])
async def test_a_link_is_sealed_if_either_end_wants_it(broker: Mosquitto, wishes: tuple[bool, bool]) -> None:
    arrived: asyncio.Queue[Channel] = asyncio.Queue()

    async def handle(channel: Channel) -> None:
        channel.set_session_key(SECRET)
        channel.mark_authenticated()
        await channel.send(await channel.receive())
        await channel.wait_closed()

    async with (
        stranger(broker) as other,
        MqttTransport().serve(broker.url, handle, LIMITS, node="alice", encrypt_payloads=wishes[0]),
    ):
        near = await dialled(broker.url, seal=wishes[1])
        near.set_session_key(SECRET)
        near.mark_authenticated()
        await near.send(HELLO)
        assert await soon(near.receive()) == HELLO
        frames = [await other.sees(way, FrameKind.END) for way in ("/up", "/down")]
        assert [frame[0] & 0xC0 for frame in frames] == [ProtectionLevel.ENCRYPTED] * 2
        await near.close()
    assert arrived.empty()


async def test_a_seal_needs_a_key(broker: Mosquitto) -> None:
    async with linked(broker.url, protected=False) as (near, far):
        for end in (near, far):
            end._endpoint.encrypt_payloads = True
            with pytest.raises(LinkRefused, match="encrypted payloads require the network key; --encrypt-payloads"):
                end.mark_authenticated()


# --------------------------------------------------------------------------- at the door


async def opened(other: Stranger, instance: str) -> str:
    """A link that a stranger opens by hand."""
    link = EndToken().name
    await other.say(
        topics.downlink_topic("alice", link),
        NoProtection().wrap(FrameKind.OPEN, 0, pack_open(instance, encrypt_payloads=False)),
    )
    return link


async def stays(channel: Channel) -> None:
    await channel.wait_closed()


async def test_who_proves_nothing_does_not_stay(broker: Mosquitto) -> None:
    async with (
        stranger(broker) as other,
        MqttTransport().serve(broker.url, stays, Limits(peer_timeout=12.0), node="alice"),
    ):
        instance = (await other.sees_topic("/presence/")).rpartition("/")[2]
        link = await opened(other, instance)
        said = await other.sees(f"{link}/up", FrameKind.CLOSE)
        assert said[9:] == b"\0no hello in time"


async def test_nobody_is_kept_out_by_a_crowd(broker: Mosquitto) -> None:
    async with stranger(broker) as other, serve(worker(), broker.url, LIMITS, KEY):
        instance = (await other.sees_topic("/presence/")).rpartition("/")[2]
        links = [await opened(other, instance) for _ in range(70)]
        gone = await other.sees_closed(6)
        assert set(gone.values()) == {b"\0too many unauthenticated connections"}
        assert gone.keys() <= {topics.uplink_topic("alice", link) for link in links}
        assert topics.uplink_topic("alice", links[-1]) not in gone, "the newest stays, whichever of the others is drawn"
        channel = await dialled(broker.url)
        await channel.close()


async def test_strangers_have_no_answers_that_others_wait_behind(
    broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the broker takes nothing from the node."""
    sessions: list[BrokerSession] = []
    begin = BrokerSession.start

    async def kept(self: BrokerSession, former: list[str]) -> None:
        sessions.append(self)
        await begin(self, former)

    monkeypatch.setattr(BrokerSession, "start", kept)
    async with MqttTransport().serve(broker.url, stays, LIMITS, node="alice"):
        (session,) = sessions
        node = session._broker
        await node.flush()
        frame = NoProtection().wrap(FrameKind.OPEN, 0, pack_open(session.instance, encrypt_payloads=False))
        with monkeypatch.context() as patch:
            patch.setattr(node, "_max_in_flight", 0)
            for _ in range(1000):
                session._handle_message(topics.downlink_topic("alice", EndToken().name), bytes(frame), False)
                session._handle_message(topics.presence_topic("alice", session.instance), PROBE, False)
            behind = [payload[:1] for _, payload, _ in node._queue]
            assert len(behind) == 2 * MAX_PENDING_CONNECTIONS + 1 and node.is_backlogged
            assert behind.count(ONLINE[:1]) == 1, "one answer is enough for all who ask"
            assert bytes([FrameKind.CLOSE]) not in behind, "a close frame is sent at once"
        node._send_queued()
        await node.flush()
        await (await dialled(broker.url)).close()


async def test_links_that_are_closed_and_that_their_callers_keep_are_bounded(
    broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of members that are refused; the newest are kept, and have a sixth of ``peer_timeout`` to be closed."""
    sessions, begin = [], BrokerSession.start

    async def kept(self: BrokerSession, former: Collection[str]) -> None:
        sessions.append(self)
        await begin(self, former)

    async def leaves(channel: Channel) -> None:
        channel.mark_authenticated()

    monkeypatch.setattr(BrokerSession, "start", kept)
    limits = Limits(peer_timeout=6000.0)
    async with stranger(broker) as other, MqttTransport().serve(broker.url, leaves, limits, node="alice"):
        (session,) = sessions
        for _ in range(MAX_PENDING_CONNECTIONS + 30):
            link = await opened(other, session.instance)
            await other.sees(f"{link}/up", FrameKind.CLOSE)
            assert len(session._links) <= MAX_PENDING_CONNECTIONS + 2
        assert len(session._links) >= MAX_PENDING_CONNECTIONS


@pytest.mark.parametrize(("size", "count"), [(0, MQTT_ALLOWANCE.max_frames + 1), (MAX_HANDSHAKE_MESSAGE_BYTES, 3)])
async def test_little_is_taken_from_who_has_proved_nothing(broker: Mosquitto, size: int, count: int) -> None:
    async with stranger(broker) as other, MqttTransport().serve(broker.url, stays, LIMITS, node="alice"):
        instance = (await other.sees_topic("/presence/")).rpartition("/")[2]
        link = await opened(other, instance)
        for turn in range(count):
            await other.say(
                topics.downlink_topic("alice", link), NoProtection().wrap(FrameKind.DATA, turn, bytes(size))
            )
        said = await other.sees(f"{link}/up", FrameKind.CLOSE)
        assert said[9:] == b"\0too much data before authentication"
        await (await dialled(broker.url)).close()


async def test_what_is_for_another_instance_or_no_link_is_nothing(broker: Mosquitto) -> None:
    async with stranger(broker) as other, linked(broker.url) as (near, far):
        await opened(other, "9" * 32)
        for topic in (
            topics.downlink_topic("alice", "9" * 32),
            "fedws/1/alice/link/x/down",
            topics.presence_topic("alice", "9" * 32),
        ):
            for data in (
                b"",
                b"\0",
                NoProtection().wrap(FrameKind.DATA, 0, b"x"),
                pack_frame_header(FrameKind.GONE, ProtectionLevel.PLAIN, 0) + bytes(32),
            ):
                await other.say(topic, data)
        await near.send(HELLO)
        assert await soon(far.receive()) == HELLO
        assert not any(topic.endswith("/up") and "9" * 32 in topic for topic, _, _ in other.seen)


async def test_a_run_without_a_key_is_refused_over_a_broker_too(broker: Mosquitto) -> None:
    async with serve(worker(), broker.url, LIMITS, KEY):
        channel = await dialled(broker.url)
        await channel.send(Hello(run="r", node="alice", protocol=1))
        refusal = await soon(channel.receive())
        assert refusal.kind == "key"
        await channel.close()
