"""Links that nodes have dialled, under TLS: both ends show who they are, and whoever is not is told in one line."""

import asyncio
from pathlib import Path

import pytest

import fedws
from fedws.node.dial_out import join_run
from fedws.privacy.policy import Policy
from fedws.protocol.messages import DEFAULT_COORDINATOR_ID
from fedws.security import certificates
from fedws.security.credentials import Credentials
from fedws.security.network_key import NetworkKey
from fedws.security.tls import TlsConfig
from tests.helpers.dial_out_nodes import expecting, listening
from tests.helpers.federation import PATIENCE, Points

pytestmark = pytest.mark.usefixtures("every_line")
KEY = NetworkKey(bytes(32), "a test")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Certificates of one network, and of another."""
    found = {name: tmp_path_factory.mktemp(name) for name in ("ours", "theirs")}
    for folder in found.values():
        certificates.create_ca(folder)
        for name in ("alice", "bob", "coordinator", "lab", "localhost"):
            certificates.issue_certificate(folder, name)
    return found


def shown(folder: Path, name: str = "", ca: Path | None = None) -> TlsConfig:
    """A certificate, if it is named, and a CA if there is one."""
    cert, key = (folder / f"{name}.pem", folder / f"{name}.key") if name else (None, None)
    return TlsConfig(cert, key, ca / "ca.pem" if ca is not None else None)


def mutual(folder: Path, name: str) -> Credentials:
    return Credentials(KEY, shown(folder, name, folder), name)


async def ran(
    tmp_path: Path, run: Credentials, *nodes: Credentials, policy: Policy | None = None, whom: str = ""
) -> str:
    """A run with alice, who tries with each of these until she gets in; gives what was logged of each but the last."""
    lines: list[str] = []
    more = expecting("wss://localhost:0", "alice", evaluator={}, wait_for_workers="forever")
    alice = fedws.Worker("alice", "points", Points(Path(), True), policy=policy or Policy())
    async with asyncio.timeout(PATIENCE), listening(tmp_path / "run", lines, credentials=run, **more) as (task, url):
        for number, security in enumerate(nodes):
            async with join_run(alice, url, None, security, whom or DEFAULT_COORDINATOR_ID):
                if number == len(nodes) - 1:
                    result = await task
                    break
                seen = len(lines)
                while not any("alice: waiting" in line for line in lines[seen:]):
                    await asyncio.sleep(0.01)
                assert not task.done()
    assert [record["num_results"] for record in result.metrics if record["kind"] == "round"] == [1, 1]
    return "\n".join(lines)


async def test_a_run_under_mutual_tls(folders: dict[str, Path], tmp_path: Path) -> None:
    ours = folders["ours"]
    text = await ran(tmp_path, mutual(ours, "coordinator"), mutual(ours, "alice"))
    assert "rejected" not in text and "TLS handshake" not in text and "waiting to join" not in text


async def test_a_run_whose_coordinator_alone_has_a_certificate(folders: dict[str, Path], tmp_path: Path) -> None:
    ours = folders["ours"]
    await ran(tmp_path, Credentials(KEY, shown(ours, "coordinator")), Credentials(KEY, shown(ours, ca=ours)))


async def test_a_coordinator_of_another_name_is_the_one_that_is_asked_for(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    ours = folders["ours"]
    await ran(tmp_path, mutual(ours, "lab"), mutual(ours, "alice"), whom="lab")


async def test_a_node_with_the_certificate_of_another_is_told(folders: dict[str, Path], tmp_path: Path) -> None:
    """Though it knows the key."""
    ours = folders["ours"]
    bob = Credentials(KEY, shown(ours, "bob", ours), "alice")
    text = await ran(tmp_path, mutual(ours, "coordinator"), bob, mutual(ours, "alice"))
    assert "(alice presented the certificate of bob; check --id)" in text
    why = "alice presented the certificate of bob; check --id"
    assert f"the coordinator: a node at 127.0.0.1 was rejected: {why}" in text


async def test_a_node_without_a_certificate_of_our_ca_is_told(folders: dict[str, Path], tmp_path: Path) -> None:
    ours, theirs = folders["ours"], folders["theirs"]
    for number, (own, why) in enumerate(
        [
            (shown(ours, ca=ours), "if it requires client certificates, set --tls-cert and --tls-key"),
            (shown(theirs, "alice", ours), "has not expired and is signed by the server's CA"),
        ]
    ):
        text = await ran(
            tmp_path / str(number), mutual(ours, "coordinator"), Credentials(KEY, own), mutual(ours, "alice")
        )
        assert why in text and "TLS handshake with 127.0.0.1 failed: " in text


async def test_a_node_does_not_join_whoever_listens(folders: dict[str, Path], tmp_path: Path) -> None:
    """Neither another node of ours, nor one with the right name in a foreign certificate; the last of them goes in."""
    ours, theirs = folders["ours"], folders["theirs"]
    for name, folder, wanted in (
        ("lab", ours, "its certificate is not issued to coordinator"),
        ("coordinator", theirs, f"its certificate is not signed by the CA in {ours / 'ca.pem'}"),
    ):
        run = Credentials(KEY, shown(folder, name, ours), name)
        lines: list[str] = []
        more = expecting("wss://localhost:0", "alice", evaluator={}, wait_for_workers="forever")
        async with asyncio.timeout(PATIENCE), listening(tmp_path / name, lines, credentials=run, **more) as (task, url):
            alice = fedws.Worker("alice", "points", Points(Path(), True))
            async with join_run(alice, url, None, mutual(ours, "alice")):
                while not any(f"alice: waiting to join at {url} ({wanted})" in line for line in lines):
                    await asyncio.sleep(0.01)
            assert not task.done() and "welcome" not in "".join(lines)


async def test_without_a_ca_of_ones_own_a_certificate_is_one_of_the_host(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a coordinator behind a name in the internet; who listens there knows the key all the same."""
    ours = folders["ours"]
    monkeypatch.setenv("SSL_CERT_FILE", str(ours / "ca.pem"))  # trusted by this machine
    run = Credentials(KEY, shown(ours, "localhost"))
    await ran(tmp_path, run, Credentials(KEY))
    lines: list[str] = []
    more = expecting("wss://localhost:0", "alice", evaluator={}, wait_for_workers="forever")
    run = Credentials(KEY, shown(ours, "lab"))
    async with asyncio.timeout(PATIENCE), listening(tmp_path / "lab", lines, credentials=run, **more) as (_, url):
        alice = fedws.Worker("alice", "points", Points(Path(), True))
        async with join_run(alice, url, None, Credentials(KEY)):
            while not any("(its certificate is not issued to localhost)" in line for line in lines):
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("allowed", ["coordinator", "lab"])
async def test_an_owners_policy_knows_coordinators_that_a_node_has_dialled(
    allowed: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    ours = folders["ours"]
    policy = Policy(coordinators=(allowed,))
    if allowed == "coordinator":
        await ran(tmp_path, mutual(ours, "coordinator"), mutual(ours, "alice"), policy=policy)
        return
    with pytest.raises(fedws.RunFailed, match="the policy of alice does not allow coordinator"):
        await ran(tmp_path, mutual(ours, "coordinator"), mutual(ours, "alice"), policy=policy)
