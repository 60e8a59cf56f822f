"""Both ends of a link with one network key, with two, and with none, over real sockets: a run goes well or says why."""

from pathlib import Path

import pytest

import fedws
from fedws.protocol import handshake
from fedws.security.credentials import INSECURE, Credentials
from tests.helpers.federation import worker
from tests.helpers.keyed_runs import KEY, OTHER, failed
from tests.helpers.manual_coordinator import honest


async def test_with_one_key_a_run_goes_well(tmp_path: Path) -> None:
    async with fedws.serve(worker(), "ws://localhost:0", credentials=KEY) as url:
        await honest(url, tmp_path / "run", KEY)


async def test_without_a_key_on_either_side_a_run_goes_well_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with fedws.serve(worker(), "ws://localhost:0", credentials=INSECURE) as url:
        await honest(url, tmp_path / "run", INSECURE)
    assert any(line.startswith("alice: authentication is disabled (--insecure)") for line in caplog.messages)
    assert "--insecure: the workers are not authenticated" in (tmp_path / "run/run.log").read_text()


async def test_with_a_key_nothing_is_said_of_insecurity(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with fedws.serve(worker(), "ws://localhost:0", credentials=KEY) as url:
        await honest(url, tmp_path / "run", KEY)
    assert "insecure" not in caplog.text + (tmp_path / "run/run.log").read_text()


@pytest.mark.parametrize(
    ("node", "run", "text"),
    [
        (KEY, OTHER, f"alice has a different network key; {handshake.KEY_MISMATCH_REMEDY}"),
        (
            KEY,
            INSECURE,
            "alice requires the network key (--key-file or FEDWS_KEY), but the coordinator uses --insecure",
        ),
        (INSECURE, KEY, "it does not authenticate (--insecure); set its --key-file or FEDWS_KEY"),
    ],
)
async def test_sides_that_do_not_go_together_say_so_at_the_first_contact(
    node: Credentials, run: Credentials, text: str, tmp_path: Path
) -> None:
    """And then the node is free for those who belong to it."""
    async with fedws.serve(worker(), "ws://localhost:0", credentials=node) as url:
        assert await failed(url, tmp_path, run) == text
        await honest(url, tmp_path / "run", node)


async def test_a_node_tells_its_owner_of_callers_who_prove_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with fedws.serve(worker(), "ws://localhost:0", credentials=KEY) as url:
        await failed(url, tmp_path, OTHER)
        await honest(url, tmp_path / "run", KEY)
    why = "the network keys differ; compare the output of 'fedws key show' on both sides"
    assert (
        f"alice: a peer at 127.0.0.1 disconnected without proving the network key (unauthenticated reason: {why})"
        in caplog.messages
    )
