"""Brokers that are away, that do not let us, that carry little, and that end in the middle of a run."""

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import fedws
from fedws.core.errors import FedwsError, LinkLost, LinkRefused, MessageRejected, ProtocolError, Unreachable, UsageError
from fedws.network.base import Channel, Limits
from fedws.network.mqtt import connection as brokers
from fedws.network.mqtt.connection import BrokerConnection
from fedws.network.mqtt.flow_control import WINDOW_FRAMES
from fedws.network.mqtt.frames import FrameKind
from fedws.network.transports.mqtt import MqttTransport
from fedws.protocol.close_codes import CloseCode
from fedws.protocol.messages import TaskRequest
from fedws.security import certificates
from fedws.security.tls import TlsConfig
from tests.helpers.broker_links import LIMITS, dialled, linked
from tests.helpers.federation import federation, settings, worker
from tests.helpers.mosquitto import PASSWORD, Mosquitto, free_port, mosquitto
from tests.helpers.protocol_page import TEXT
from tests.helpers.waiting import soon

QUICK = Limits(peer_timeout=12.0)
"""Two seconds for an answer, where none comes."""


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDWS_MQTT_PASSWORD", PASSWORD)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with mosquitto(tmp_path / "broker") as found:
        yield found


async def stays(channel: Channel) -> None:
    await channel.wait_closed()


async def unserved(url: str, tls: TlsConfig | None = None, limits: Limits = LIMITS) -> str:
    """Why a node cannot be there, in one line that begins with the address."""
    way = MqttTransport(encrypted=url.startswith("mqtts"))
    with pytest.raises((UsageError, Unreachable)) as error:
        async with way.serve(url, stays, limits, tls, node="alice"):
            raise AssertionError("it is there")
    text = str(error.value)
    assert text.startswith(f"{url}: ") and "\n" not in text and PASSWORD not in text
    return text.removeprefix(f"{url}: ")


async def undialled(url: str, limits: Limits = LIMITS) -> FedwsError:
    """Why a node cannot be dialled."""
    way = MqttTransport(encrypted=url.startswith("mqtts"))
    with pytest.raises((LinkRefused, Unreachable)) as error:
        await soon(way.connect(url, limits, "alice"))
    assert "\n" not in str(error.value)
    return error.value


# --------------------------------------------------------------------------- no way in


@pytest.mark.parametrize(
    ("host", "why"), [("localhost", "connection refused"), ("no-such-host.invalid", "unknown host")]
)
async def test_a_broker_that_is_not_there_is_said(host: str, why: str) -> None:
    url = f"mqtt://{host}:{free_port()}"
    assert await unserved(url) == why
    error = await undialled(url)
    assert (type(error), str(error)) == (Unreachable, why)


async def test_what_is_no_broker_is_said() -> None:
    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
        writer.close()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    ended = "the server closed the connection; check that it supports MQTT 5"
    for answer, why, limits in ((web, ended, LIMITS), (mute, "no answer", QUICK)):
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            url = f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            assert await unserved(url, limits=limits) == why
            assert str(await undialled(url, limits)) == why


async def test_a_wrong_password_is_said(broker: Mosquitto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDWS_MQTT_PASSWORD", "another")
    why = "the broker does not accept fedws with this password (not authorized, 0x87)"
    assert await unserved(broker.url) == why
    error = await undialled(broker.url)
    assert isinstance(error, LinkRefused) and (error.kind, str(error)) == ("key", why)
    url = f"mqtt://localhost:{broker.port}"
    assert await unserved(url) == "the broker does not accept clients without a user name (not authorized, 0x87)"


RIGHTS = {
    "presence": ("topic read fedws/#", LIMITS, r"write fedws/1/alice/presence/\w+ \(not authorized, 0x87\)$"),
    "reading it": ("topic write fedws/#", QUICK, r"read fedws/1/alice/presence/\w+, or is too slow$"),
}


@pytest.mark.parametrize("what", RIGHTS)
async def test_a_topic_that_is_not_permitted_is_named(tmp_path: Path, what: str) -> None:
    line, limits, why = RIGHTS[what]
    with mosquitto(tmp_path / "broker", acl=f"user fedws\n{line}\n") as broker:
        assert re.match(r"the broker does not allow fedws to " + why, await unserved(broker.url, limits=limits))


async def test_a_coordinator_that_may_not_write_hears_which_topic(tmp_path: Path) -> None:
    rights = "user alice\ntopic readwrite fedws/1/alice/#\nuser fedws\ntopic read fedws/#\n"
    with mosquitto(tmp_path / "broker", acl=rights) as broker:
        async with MqttTransport().serve(broker.at("alice"), stays, LIMITS, node="alice"):
            error = await undialled(broker.url)
    assert isinstance(error, LinkRefused) and error.kind == "policy"
    assert re.fullmatch(
        r"the broker does not allow fedws to write fedws/1/alice/link/\w+/down \(not authorized, 0x87\)", str(error)
    )


async def test_the_rights_in_the_protocols_page_are_enough(tmp_path: Path) -> None:
    (rights,) = re.findall(r"```acl\n(.*?)```", TEXT, re.DOTALL)
    with mosquitto(tmp_path / "broker", acl=rights) as broker:
        async with MqttTransport().serve(broker.at("alice"), stays, LIMITS, node="alice"):
            await (await dialled(broker.url)).close()
        assert not any("Denied" in line for line in broker.log)


# --------------------------------------------------------------------------- TLS


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A CA, and certificates of a broker and of a node."""
    folder = tmp_path / "certs"
    certificates.create_ca(folder)
    for name in ("localhost", "alice"):
        certificates.issue_certificate(folder, name)
    return folder


def served_with(made: Path, *more: str) -> list[str]:
    return [
        f"cafile {made / 'ca.pem'}",
        f"certfile {made / 'localhost.pem'}",
        f"keyfile {made / 'localhost.key'}",
        *more,
    ]


async def test_a_broker_under_tls(tmp_path: Path, made: Path) -> None:
    ca, url = TlsConfig(ca=made / "ca.pem"), ""
    with mosquitto(tmp_path / "broker", *served_with(made)) as broker:
        url = broker.url.replace("mqtt:", "mqtts:")
        async with MqttTransport(encrypted=True).serve(url, stays, LIMITS, ca, node="alice"):
            await (await soon(MqttTransport(encrypted=True).connect(url, LIMITS, "alice", ca))).close()
        assert "its certificate is not signed by a CA that this machine trusts" in await unserved(url)
        other = url.replace("localhost", "127.0.0.1")
        assert await unserved(other, ca) == "its certificate is not issued to 127.0.0.1"
        error = await undialled(broker.url)
        assert isinstance(error, LinkRefused) and error.kind == "key"
        assert await unserved(broker.url) == "the broker uses TLS; use mqtts://"


async def test_a_broker_that_asks_for_certificates(tmp_path: Path, made: Path) -> None:
    ours = TlsConfig(made / "alice.pem", made / "alice.key", made / "ca.pem")
    with mosquitto(tmp_path / "broker", *served_with(made, "require_certificate true")) as broker:
        url = broker.url.replace("mqtt:", "mqtts:")
        async with MqttTransport(encrypted=True).serve(url, stays, LIMITS, ours, node="alice"):
            await (await soon(MqttTransport(encrypted=True).connect(url, LIMITS, "alice", ours))).close()
        why = await unserved(url, TlsConfig(ca=made / "ca.pem"))
        advice = "if it requires client certificates, set --tls-cert and --tls-key"
        assert why == f"the broker closed the connection; {advice}"


async def test_a_broker_without_tls(broker: Mosquitto) -> None:
    why = await unserved(broker.url.replace("mqtt:", "mqtts:"))
    assert why == "the connection ended during the TLS handshake; mqtts:// requires a port with TLS"


def test_certificates_go_with_mqtts(made: Path) -> None:
    with pytest.raises(UsageError, match=r"mqtt://b:1 is not encrypted, but certificates are given; use mqtts://"):
        MqttTransport().check_url("mqtt://b:1", TlsConfig(ca=made / "ca.pem"))
    MqttTransport(encrypted=True).check_url("mqtts://b:1", TlsConfig(ca=made / "ca.pem"), encrypt_payloads=True)


# --------------------------------------------------------------------------- large messages


def order(count: int) -> TaskRequest:
    """One of so many float32 weights."""
    return TaskRequest(
        request_id="1", worker="alice", round=1, task="t", tensors={"w": torch.arange(count, dtype=torch.float32)}
    )


async def test_a_broker_that_carries_small_packets_carries_large_messages(tmp_path: Path) -> None:
    with mosquitto(tmp_path / "broker", packet=4000) as broker:
        async with linked(broker.url) as (near, far):
            sending = asyncio.create_task(near.send(order(10_000)))
            assert torch.equal((await soon(far.receive())).tensors["w"], order(10_000).tensors["w"])
            await soon(sending)
            assert (
                near._sink.max_payload_bytes == far._sink.max_payload_bytes == 4000 - brokers.MAX_PACKET_OVERHEAD_BYTES
            )


async def test_who_sends_what_is_not_taken_is_told_so(broker: Mosquitto) -> None:
    """It would not be taken a second time either."""
    async with linked(broker.url) as (near, far):
        near._send_frame(FrameKind.END, b"no message")
        with pytest.raises(ProtocolError) as error:
            await soon(far.receive())
        await far.close(str(error.value), CloseCode.MESSAGE_REJECTED)
        with pytest.raises(MessageRejected, match="not a fedws message"):
            await soon(near.receive())


async def test_a_receiver_that_does_not_read_does_not_fill_the_broker(broker: Mosquitto) -> None:
    async with linked(broker.url) as (near, far):
        before = broker.memory
        sending = asyncio.create_task(near.send(order(25 * 2**20)))
        while far._endpoint.unread_frames < WINDOW_FRAMES:
            await asyncio.sleep(0)
        assert not near._endpoint.can_send and not sending.done()
        assert near.bytes_sent < (WINDOW_FRAMES + 1) * (brokers.MAX_PAYLOAD_BYTES + 200)
        assert broker.memory - before < 2 * WINDOW_FRAMES * brokers.MAX_PAYLOAD_BYTES
        assert torch.equal((await soon(far.receive())).tensors["w"], order(25 * 2**20).tensors["w"])
        await soon(sending)
        assert broker.memory - before < 2 * WINDOW_FRAMES * brokers.MAX_PAYLOAD_BYTES


# --------------------------------------------------------------------------- ends and begins again


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_links_are_lost_with_the_broker_and_the_node_is_there_again_with_it(
    broker: Mosquitto, how: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    async with linked(broker.url) as (near, far):
        broker.stop(how)
        async with asyncio.timeout(LIMITS.effective_ping_interval / 2):  # not only at the next sign of life
            for end in (near, far):  # a broker that ends in order publishes the wills
                with pytest.raises(
                    LinkLost, match=r"^(the connection to the broker is lost|the (node|coordinator) has disconnected)"
                ):
                    await end.receive()
        broker.start()
        again = await dialled(broker.url)
        await again.close()
    assert any("alice: the connection to the broker is lost" in line for line in caplog.messages)


async def test_a_broker_that_stands_still_is_given_up_as_its_nodes_are(broker: Mosquitto) -> None:
    async with linked(broker.url, Limits(peer_timeout=6.0)) as (near, far):
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            for end in (near, far):
                with pytest.raises(LinkLost, match=r"^silent for 6 s$"):
                    await soon(end.receive())
        finally:
            os.kill(broker.pid, signal.SIGCONT)


@contextlib.asynccontextmanager
async def two(broker: Mosquitto) -> AsyncIterator[dict[str, Any]]:
    """Two workers on a broker; gives the settings of a run over them."""
    async with contextlib.AsyncExitStack() as stack:
        urls = {}
        for node in ("alice", "bob"):
            urls[node] = await stack.enter_async_context(fedws.serve(worker(node), broker.url))
        yield settings(urls, rounds=4)


@pytest.mark.parametrize("where", ["down", "up"])
async def test_a_run_goes_on_after_the_broker_was_killed_in_the_middle_of_a_transfer(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(brokers, "MAX_PAYLOAD_BYTES", 256)  # a model of 1 KB is many frames
    publish, counts = BrokerConnection.publish, {"down": 0, "up": 0, "killed": 0}

    def killing(self: BrokerConnection, topic: str, payload: bytes, **more: Any) -> int:
        size = publish(self, topic, payload, **more)
        way = topic.rpartition("/")[2]
        if way == where and payload[0] & 0x3F == FrameKind.DATA:
            counts[way] += 1
            if counts[way] in (8, 16):
                counts["killed"] += 1
                broker.stop()
                broker.start()
        return size

    async with federation("memory", nodes=("alice", "bob")) as plain:
        expected = await fedws.run(run_dir=tmp_path / "memory", **{**plain, "rounds": 4})
    async with two(broker) as found:
        with monkeypatch.context() as patch:
            patch.setattr(BrokerConnection, "publish", killing)
            async with asyncio.timeout(120):
                result = await fedws.run(run_dir=tmp_path / "run", **found)
    assert counts["killed"] == 2
    assert result.model.keys() == expected.model.keys()
    assert all(torch.equal(result.model[name], value) for name, value in expected.model.items())
    lost = (tmp_path / "run" / "run.log").read_text()
    assert "the connection to the broker is lost" in lost
