"""Brokers whose limit for packets or messages is below what fedws requires: both ends name the setting to raise."""

from pathlib import Path

import pytest
import torch

from fedws.core.errors import LinkLost, LinkRefused, UsageError
from fedws.network.base import Channel
from fedws.network.transports.mqtt import MqttTransport
from tests.helpers.broker_links import LIMITS, dialled
from tests.helpers.mosquitto import PASSWORD, Mosquitto, mosquitto
from tests.helpers.transport_links import order
from tests.helpers.waiting import soon

REMEDY = "raise max_packet_size and message_size_limit in the broker's settings"


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDWS_MQTT_PASSWORD", PASSWORD)


async def stays(channel: Channel) -> None:
    await channel.wait_closed()


async def exchange(broker: Mosquitto) -> None:
    """Send a node what takes many of the smallest packets, which it sends back."""

    async def echo(channel: Channel) -> None:
        channel.mark_authenticated()
        await channel.send(await channel.receive())
        await channel.wait_closed()

    weights = torch.arange(1000)
    async with MqttTransport().serve(broker.url, echo, LIMITS, node="alice"):
        near = await dialled(broker.url)
        near.mark_authenticated()
        try:
            await near.send(order(w=weights))
            answer = await soon(near.receive())
            assert torch.equal(answer.tensors["w"], weights)
        finally:
            await near.close()


@pytest.mark.parametrize("limit", [1000, 2303])
async def test_packets_below_what_fedws_requires_are_an_error_of_both_ends(tmp_path: Path, limit: int) -> None:
    with mosquitto(tmp_path / "broker", packet=limit) as broker:
        text = f"the broker accepts packets of at most {limit:,} bytes, and fedws requires 2,304; {REMEDY}"
        with pytest.raises(UsageError) as unserved:
            async with MqttTransport().serve(broker.url, stays, LIMITS, node="alice"):
                raise AssertionError("it is served")
        assert str(unserved.value) == f"{broker.url}: {text}"
        with pytest.raises(LinkRefused) as undialled:
            await dialled(broker.url)
        assert (undialled.value.kind, str(undialled.value)) == ("policy", text)


async def test_the_smallest_packets_that_fedws_requires_are_enough(tmp_path: Path) -> None:
    with mosquitto(tmp_path / "broker", packet=2304) as broker:
        await exchange(broker)


async def test_a_limit_for_messages_is_named_at_the_end_that_sends_more(tmp_path: Path) -> None:
    """Mosquitto does not announce this limit: it closes the connection of who exceeds it."""
    with mosquitto(tmp_path / "broker", "message_size_limit 100") as broker:
        with pytest.raises(LinkLost) as lost:
            await exchange(broker)
        assert str(lost.value).startswith("the connection to the broker is lost: ")
        assert str(lost.value).endswith(f"; if it limits the size of messages, {REMEDY}")
