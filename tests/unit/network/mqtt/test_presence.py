"""Who was here first, message by message; ``tests/network/test_mqtt_presence.py`` is over a real broker."""

import asyncio
from typing import Any

import pytest

from fedws.core.errors import LinkRefused, UsageError
from fedws.network.mqtt import topics
from fedws.network.mqtt.presence import MAX_OLDER_INSTANCES, Presence
from fedws.network.mqtt.topics import CLAIMING, ONLINE, PROBE, EndToken

OWN, OTHER, THIRD = (digit * 32 for digit in "123")


class Broker:
    """What is published, and the events that are waited for: each comes when a test lets it, or not."""

    user = "fedws"

    def __init__(self, *, patient: bool = True) -> None:
        self.said: list[tuple[str, bytes, bool]] = []
        self._patient = patient
        self.busy = False

    def is_queued(self, topic: str) -> bool:
        return self.busy

    def publish(self, topic: str, payload: bytes, *, reliable: bool = True, retain: bool = False) -> int:
        self.said.append((topics.parse_presence_topic("alice", topic) or topic, payload, retain))
        return 0

    async def wait_for_event(self, event: asyncio.Event) -> bool:
        await asyncio.sleep(0)
        if self._patient:
            await event.wait()
        return event.is_set()


def made(broker: Any) -> Presence:
    return Presence(broker, "alice", OWN)


async def claiming(presence: Presence, *former: str) -> "asyncio.Task[None]":
    task = asyncio.create_task(presence.claim_id(former))
    await asyncio.sleep(0)
    return task


async def test_alone() -> None:
    broker = Broker()
    task = await claiming(presence := made(broker))
    assert not presence.is_online
    presence.handle_message(OWN, CLAIMING, retained=False)
    await task
    assert presence.is_online and broker.said == [(OWN, CLAIMING, True), (OWN, ONLINE, True)]


@pytest.mark.parametrize("between", [[], [PROBE], [b""], [EndToken().secret], [ONLINE, PROBE]])
async def test_an_older_one_is_asked_whatever_was_said_on_its_topic_meanwhile(between: list[bytes]) -> None:
    """Others ask it too; and what a stranger says there is no reason to take it for gone."""
    broker = Broker()
    task = await claiming(presence := made(broker))
    presence.handle_message(OTHER, CLAIMING, retained=True)
    for said in between:
        presence.handle_message(OTHER, said, retained=False)
    presence.handle_message(OWN, CLAIMING, retained=False)
    presence.handle_message(THIRD, ONLINE, retained=False)  # came later, and will be refused
    while broker.said[-1] == (OWN, CLAIMING, True):
        await asyncio.sleep(0)
    assert broker.said[1:] == [(OTHER, PROBE, False)]
    for said in (PROBE, b"", EndToken().secret):
        presence.handle_message(OTHER, said, retained=False)
    presence.handle_message(OTHER, ONLINE, retained=True)
    assert not task.done()
    presence.handle_message(OTHER, ONLINE, retained=False)
    with pytest.raises(UsageError, match="alice is already connected to this broker"):
        await task
    assert not presence.is_online


async def test_one_that_does_not_answer_is_swept_away() -> None:
    broker = Broker(patient=False)
    presence = made(broker)
    task = await claiming(presence)
    presence.handle_message(OTHER, ONLINE, retained=True)
    presence.handle_message(THIRD, EndToken().secret, retained=True)
    presence.handle_message(OWN, CLAIMING, retained=False)
    await task
    asked, *cleared, here = broker.said[1:]
    assert asked == (OTHER, PROBE, False) and here == (OWN, ONLINE, True)
    assert sorted(cleared) == [(OTHER, b"", True), (THIRD, b"", True)]


async def test_a_former_one_is_swept_away_first_and_not_asked() -> None:
    broker = Broker()
    task = await claiming(presence := made(broker), OTHER)
    assert broker.said == [(OTHER, b"", True), (OWN, CLAIMING, True)]
    presence.handle_message(OTHER, ONLINE, retained=True)
    presence.handle_message(OWN, CLAIMING, retained=False)
    await task
    assert presence.is_online and not any(said == PROBE for _, said, _ in broker.said)


async def test_who_hears_nothing_of_itself_may_not_read() -> None:
    why = rf"does not allow fedws to read fedws/1/alice/presence/{OWN}, or is too slow"
    with pytest.raises(LinkRefused, match=why):
        await made(Broker(patient=False)).claim_id(())


async def test_it_says_again_what_it_said_until_it_has_left() -> None:
    broker = Broker()
    task = await claiming(presence := made(broker))
    presence.handle_message(OWN, PROBE, retained=False)
    presence.handle_message(OWN, CLAIMING, retained=False)
    await task
    for said in (PROBE, b"", bytes(32), ONLINE):
        presence.handle_message(OWN, said, retained=False)
    presence.withdraw()
    presence.handle_message(OWN, PROBE, retained=False)
    again = [(OWN, ONLINE, True)] * 3
    assert broker.said == [(OWN, CLAIMING, True)] * 2 + [(OWN, ONLINE, True)] + again + [(OWN, b"", True)]


async def test_who_asks_again_has_the_answer_that_waits_to_be_sent() -> None:
    broker = Broker()
    task = await claiming(presence := made(broker))
    presence.handle_message(OWN, CLAIMING, retained=False)
    await task
    said = len(broker.said)
    for broker.busy, more in ((True, 0), (False, 1)):
        presence.handle_message(OWN, PROBE, retained=False)
        assert len(broker.said) == said + more


@pytest.mark.parametrize("payload", [ONLINE, b"x"])
async def test_only_so_many_older_ones_are_looked_after_and_none_for_ever(payload: bytes) -> None:
    broker = Broker(patient=False)
    task = await claiming(presence := made(broker))
    for number in range(2 * MAX_OLDER_INSTANCES):
        presence.handle_message(f"{number:032x}", payload, retained=True)
    presence.handle_message(OWN, CLAIMING, retained=False)
    await task
    assert sum(said == b"" for _, said, _ in broker.said) == MAX_OLDER_INSTANCES
    assert not presence._online_instances and not presence._other_instances
