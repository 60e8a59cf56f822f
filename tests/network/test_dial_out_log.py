"""What a node that dials out logs: why a coordinator left it, and one line when it waits for the next run."""

import asyncio
import re
from dataclasses import replace
from pathlib import Path

import pytest

import fedws
from fedws.coordinator.handshake import CoordinatorHandshake
from fedws.core.errors import LinkRefused
from fedws.network.base import Channel
from fedws.protocol.close_codes import CloseCode
from fedws.protocol.run_claim import RunClaim, derive_takeover_key
from fedws.security.credentials import INSECURE, Credentials
from tests.helpers.dial_out_nodes import HELLO, expecting, free_port, meeting, outside
from tests.helpers.keyed_runs import KEY, OTHER
from tests.helpers.virtual_time import virtual
from tests.helpers.waiting import soon

URL = "memory://meeting"
JOINED = rf"alice: joined the run at {URL}"
RUN = (JOINED, r"alice: run \w+ started", r"alice: run \w+ ended: the coordinator ends")
WAITS = rf"alice: waiting for the next run at {URL}"
NOBODY = rf"alice: waiting to join at {URL} \(no node serves {URL}\)"
AWAY = rf"alice: waiting for the next run at {URL} \(no node serves {URL}\)"
DIFFER = "the network keys differ; compare the output of 'fedws key show' on both sides"
UNPROVED = rf"disconnected without proving the network key \(unauthenticated reason: {DIFFER}\)"
CLAIM = RunClaim("cafe" * 4, "coordinator", derive_takeover_key(bytes(32), "alice"))

pytestmark = pytest.mark.usefixtures("every_line")


def assert_logged(caplog: pytest.LogCaptureFixture, *patterns: str) -> None:
    """That alice has logged a line for each pattern, and no other."""
    lines = [line for line in caplog.messages if line.startswith("alice: ")]
    assert len(lines) == len(patterns), lines
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(pattern, line), (line, pattern)


async def welcomed(channel: Channel, security: Credentials = INSECURE) -> None:
    """The coordinator's half of a handshake with alice."""
    await CoordinatorHandshake(CLAIM, "alice", "worker", "points", security).perform(channel)


# --------------------------------------------------------------------------- another key


@virtual
async def test_a_node_with_another_key_logs_why_and_does_not_join(caplog: pytest.LogCaptureFixture) -> None:
    async with meeting(URL, KEY) as (place, url), outside(url, "alice", security=OTHER):
        for _ in range(3):
            with pytest.raises(LinkRefused, match=r"^alice has a different network key; copy the key: "):
                await welcomed(await place.next_channel("alice"), KEY)
        await asyncio.sleep(1)
    assert_logged(caplog, f"alice: a peer {UNPROVED}")


async def test_the_reason_comes_over_a_websocket(caplog: pytest.LogCaptureFixture) -> None:
    async with meeting("ws://localhost:0", KEY) as (place, url), outside(url, "alice", security=OTHER):
        for _ in range(2):  # the node joins again after it has logged
            channel = await soon(place.next_channel("alice"))
            with pytest.raises(LinkRefused):
                await soon(welcomed(channel, KEY))
    assert_logged(caplog, rf"alice: a peer at 127\.0\.0\.1 {UNPROVED}")


@virtual
async def test_a_node_without_a_key_logs_that_the_coordinator_requires_one(caplog: pytest.LogCaptureFixture) -> None:
    async with meeting(URL, KEY) as (place, url), outside(url, "alice", security=INSECURE):
        with pytest.raises(LinkRefused, match=r"^it does not authenticate \(--insecure\); set its --key-file"):
            await welcomed(await place.next_channel("alice"), KEY)
        await place.next_channel("alice")  # it joins again after it has logged
    required = "the coordinator requires the network key; do not set --insecure"
    assert_logged(caplog, *RUN[:2], rf"alice: run \w+ ended: {required}")


# --------------------------------------------------------------------------- the end of a run


@virtual
async def test_after_each_run_a_node_waits_for_the_next_and_logs_once_that_nobody_listens(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not at once, since a coordinator that has ended its run has left; before its first run it logs it at once."""
    async with outside(URL, "alice"):
        await asyncio.sleep(60)
        for number in range(2):
            await fedws.run(run_dir=tmp_path / str(number), **expecting(URL, "alice", evaluator={}))
            await asyncio.sleep(20)
        assert_logged(caplog, NOBODY, *RUN, WAITS, *RUN, WAITS)
        await asyncio.sleep(600)
    assert_logged(caplog, NOBODY, *RUN, WAITS, *RUN, WAITS, AWAY)


async def test_the_end_of_a_run_is_known_over_a_websocket(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    url = f"ws://localhost:{free_port()}"
    async with outside(url, "alice"):
        for number in range(2):
            await soon(fedws.run(run_dir=tmp_path / str(number), **expecting(url, "alice", evaluator={})))
    joined, waits = f"alice: joined the run at {url}", f"alice: waiting for the next run at {url}"
    lines = [line for line in caplog.messages if line.startswith(("alice: waiting", "alice: joined"))]
    first = lines.index(joined)  # before, it may have dialled before the run listened
    assert lines[first : first + 3] == [joined, waits, joined]


async def run_ends(security: Credentials = INSECURE) -> None:
    """A run that asks alice for nothing."""
    async with meeting(URL, security) as (place, _):
        channel = await place.next_channel("alice")
        await welcomed(channel, security)
        await channel.close("the coordinator ends", CloseCode.NORMAL_CLOSURE)


@virtual
async def test_a_node_that_waits_for_the_next_run_logs_that_it_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    async with outside(URL, "alice"):
        await run_ends()
        async with meeting(URL, INSECURE, 60, "bob"):
            await asyncio.sleep(20)
    refused = r"this run does not expect alice; check --id here and --expect-workers there"
    assert_logged(caplog, *RUN, WAITS, rf"alice: waiting to join at {URL} \({refused}\)")


@virtual
async def test_a_node_that_waits_logs_so_once_when_coordinators_with_another_key_come(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with outside(URL, "alice", security=KEY):
        await run_ends(KEY)
        async with meeting(URL, OTHER) as (place, _):
            for _ in range(3):
                with pytest.raises(LinkRefused):
                    await welcomed(await place.next_channel("alice"), OTHER)
        await asyncio.sleep(20)
    assert_logged(caplog, *RUN, WAITS, f"alice: a peer {UNPROVED}")


@virtual
async def test_a_link_that_carries_no_welcome_is_not_the_end_of_a_run(caplog: pytest.LogCaptureFixture) -> None:
    """Nor is it for a node whose run before ended."""
    async with outside(URL, "alice"):
        await run_ends()
        async with meeting() as (place, _):
            channel = await place.next_channel("alice")
            await channel.send(replace(HELLO, max_message_bytes=100))
            await channel.wait_closed()
        await asyncio.sleep(60)
    assert_logged(caplog, *RUN, WAITS, JOINED, RUN[1], r"alice: run \w+ ended: the welcome has .*", NOBODY)


@virtual
async def test_a_node_whose_link_is_lost_waits_for_the_same_run(caplog: pytest.LogCaptureFixture) -> None:
    """And logs each reason why it cannot join it again."""
    async with outside(URL, "alice"):
        async with meeting() as (place, _):
            channel = await place.next_channel("alice")
            await welcomed(channel)
            await channel.close("cut")
        await asyncio.sleep(60)
    assert_logged(caplog, JOINED, RUN[1], r"alice: run \w+ ended: cut", NOBODY)
