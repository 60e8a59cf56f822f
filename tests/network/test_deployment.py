"""docs/deploy/mosquitto.conf and acl, with a real Mosquitto: what a run needs is allowed, and no node is another."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedws.core.errors import Unreachable, UsageError
from fedws.network.base import Channel, Limits
from fedws.network.transports.mqtt import MqttTransport
from fedws.protocol.messages import Hello
from tests.helpers.mosquitto import PASSWORD, Mosquitto, mosquitto
from tests.helpers.support import REPOSITORY

FOLDER = REPOSITORY / "docs" / "deploy"
OF_THE_TEST = ("listener", "certfile", "keyfile", "tls_version", "allow_anonymous", "password_file", "acl_file")
"""Settings that the test's broker has its own of: it is on the loopback, without TLS."""
LIMITS = Limits(peer_timeout=60.0)
QUICK = Limits(peer_timeout=3.0)
"""Half a second for an answer."""
HELLO = Hello(run="r", node="alice", protocol=1)


@pytest.fixture
def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mosquitto]:
    """With the settings of the page; the coordinator's user is called ``fedws`` here."""
    monkeypatch.setenv("FEDWS_MQTT_PASSWORD", PASSWORD)
    lines = (FOLDER / "mosquitto.conf").read_text(encoding="utf-8").splitlines()
    settings = [line for line in lines if line and line[0] != "#" and line.split()[0] not in OF_THE_TEST]
    rights = (FOLDER / "acl").read_text(encoding="utf-8")
    assert "\nuser coordinator\n" in rights
    with mosquitto(tmp_path / "broker", *settings, acl=rights.replace("user coordinator", "user fedws")) as found:
        yield found


async def echo(channel: Channel) -> None:
    channel.mark_authenticated()
    await channel.send(await channel.receive())
    await channel.wait_closed()


async def test_a_node_and_the_coordinator_reach_each_other(broker: Mosquitto) -> None:
    async with asyncio.timeout(60), MqttTransport().serve(broker.at("alice"), echo, LIMITS, node="alice"):
        channel = await MqttTransport().connect(broker.at("fedws"), LIMITS, "alice")
        channel.mark_authenticated()
        await channel.send(HELLO)
        assert await channel.receive() == HELLO
        await channel.close()


@pytest.mark.parametrize("user", ["bob", "fedws"])
async def test_nobody_else_is_alice(user: str, broker: Mosquitto) -> None:
    with pytest.raises(UsageError, match=f"does not allow {user} to write fedws/1/alice/presence/.*0x87"):
        async with MqttTransport().serve(broker.at(user), echo, QUICK, node="alice"):
            pass


async def test_a_node_coordinates_nobody(broker: Mosquitto) -> None:
    async with asyncio.timeout(60), MqttTransport().serve(broker.at("alice"), echo, LIMITS, node="alice"):
        with pytest.raises(Unreachable, match="alice is not connected to the broker"):
            await MqttTransport().connect(broker.at("bob"), QUICK, "alice")
