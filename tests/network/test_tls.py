"""Links under TLS, over real sockets: who is who, and one clear line for everybody who is not."""

import asyncio
import contextlib
import datetime
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvloop

import fedws
from fedws.core.errors import RunFailed, UnexpectedNode, UsageError
from fedws.network.admission import MAX_PENDING_CONNECTIONS
from fedws.network.base import Limits
from fedws.network.websocket.incoming_connection import IncomingConnection
from fedws.security import certificates
from fedws.security.credentials import Credentials
from fedws.security.network_key import NetworkKey
from fedws.security.tls import TlsConfig
from tests.helpers.federation import PATIENCE, evaluating, settings, worker

KEY = NetworkKey(bytes(32), "a test")


@dataclass(frozen=True)
class Folders:
    """Certificates of one network, of another, and of the one but out of date."""

    ours: Path
    theirs: Path
    old: Path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Of alice, bob, the coordinator and the evaluator."""
    ours, theirs, old = (tmp_path_factory.mktemp(name) for name in ("ours", "theirs", "old"))
    for folder in (ours, theirs):
        certificates.create_ca(folder)
    for name in ("ca.pem", "ca.key"):
        shutil.copy(ours / name, old / name)
    for folder in (ours, theirs):
        for name in ("alice", "bob", "testing", "coordinator"):
            certificates.issue_certificate(folder, name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certificates, "_MAX_CLOCK_SKEW", datetime.timedelta(days=3))
        for name in ("alice", "coordinator"):
            certificates.issue_certificate(old, name, days=-1)
    return Folders(ours, theirs, old)


def tls(folder: Path, name: str = "", ca: Path | None = None) -> TlsConfig:
    """What a node has of a folder: its certificate if it is named, and a CA if there is one."""
    cert, key = (folder / f"{name}.pem", folder / f"{name}.key") if name else (None, None)
    return TlsConfig(cert, key, ca / "ca.pem" if ca is not None else None)


@contextlib.asynccontextmanager
async def served(own: TlsConfig | None, limits: Limits | None = None) -> AsyncIterator[str]:
    """Alice, with TLS if she has a certificate."""
    url = "ws://localhost:0" if own is None else "wss://localhost:0"
    async with fedws.serve(worker(), url, limits, Credentials(KEY, own)) as address:
        yield address


async def ran(urls: dict[str, str], folder: Path, security: Credentials) -> Sequence[int]:
    """How many answered in each round of a run that must go well."""
    async with asyncio.timeout(PATIENCE):
        result = await fedws.run(run_dir=folder, credentials=security, **settings(urls))
    return [record["num_results"] for record in result.metrics if "num_results" in record]


async def failed(url: str, folder: Path, security: Credentials) -> str:
    """What a run says that ends at the first contact, though it would wait for ever for who may come yet."""
    with pytest.raises(UnexpectedNode) as error:
        async with asyncio.timeout(PATIENCE):
            await fedws.run(
                run_dir=folder / "never", credentials=security, **settings({"alice": url}, wait_for_workers="forever")
            )
    assert not (folder / "never").exists()
    text = str(error.value)
    assert text.startswith(f"alice at {url}: ") and text.isprintable()
    return text.removeprefix(f"alice at {url}: ")


async def test_a_run_under_mutual_tls(folders: Folders, tmp_path: Path) -> None:
    """Workers and evaluator, each with its own certificate, at addresses that stand in none of them."""
    async with contextlib.AsyncExitStack() as stack:
        urls = {}
        for node in (worker(), worker("bob"), evaluating()):
            security = Credentials(KEY, tls(folders.ours, node.node, folders.ours))
            served = fedws.serve(node, "wss://127.0.0.1:0", credentials=security)
            urls[node.node] = await stack.enter_async_context(served)
        assert all(url.startswith("wss://127.0.0.1:") for url in urls.values())
        security = Credentials(KEY, tls(folders.ours, "coordinator", folders.ours))
        assert await ran(urls, tmp_path / "run", security) == [2, 2]


async def test_a_run_with_certificates_of_nodes_alone(folders: Folders, tmp_path: Path) -> None:
    async with served(tls(folders.ours, "alice")) as url:
        assert await ran({"alice": url}, tmp_path / "run", Credentials(KEY, tls(folders.ours, ca=folders.ours))) == [
            1,
            1,
        ]


async def test_tls_does_without_a_key_where_both_sides_do(folders: Folders, tmp_path: Path) -> None:
    own = tls(folders.ours, "alice", folders.ours)
    async with fedws.serve(worker(), "wss://localhost:0", credentials=Credentials(None, own)) as url:
        security = Credentials(None, tls(folders.ours, "coordinator", folders.ours))
        assert await ran({"alice": url}, tmp_path / "run", security) == [1, 1]


NODES = {
    "expired": ("old", "alice", "its certificate is not accepted: certificate has expired"),
    "foreign": ("theirs", "alice", "its certificate is not signed by the CA in {ca}"),
    "another node's": ("ours", "bob", "its certificate is not issued to alice"),
}


@pytest.mark.parametrize("case", NODES)
async def test_a_node_that_shows_no_good_certificate_is_named(case: str, folders: Folders, tmp_path: Path) -> None:
    folder, name, text = NODES[case]
    async with served(tls(getattr(folders, folder), name, folders.ours)) as url:
        said = await failed(url, tmp_path, Credentials(KEY, tls(folders.ours, "coordinator", folders.ours)))
    assert said == text.format(ca=folders.ours / "ca.pem")


async def test_ids_are_not_names_of_hosts(folders: Folders, tmp_path: Path) -> None:
    """To TLS the case of a name is no matter."""
    certificates.issue_certificate(folders.ours, "ALICE")
    async with served(tls(folders.ours, "ALICE", folders.ours)) as url:
        security = Credentials(KEY, tls(folders.ours, "coordinator", folders.ours))
        assert await failed(url, tmp_path, security) == "its certificate is not issued to alice"


async def test_a_private_ca_must_be_named(folders: Folders, tmp_path: Path) -> None:
    async with served(tls(folders.ours, "alice")) as url:
        said = await failed(url, tmp_path, Credentials(KEY))
    assert said == "its certificate is not signed by a CA that this machine trusts; set --tls-ca"


@pytest.mark.parametrize("case", ["none", "expired", "foreign"])
async def test_a_caller_who_shows_no_good_certificate_is_told(
    case: str, folders: Folders, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In TLS 1.3 it hears of that only after its own part is done; the node's log says who it was and why."""
    own = {
        "none": tls(folders.ours, ca=folders.ours),
        "expired": tls(folders.old, "coordinator", folders.ours),
        "foreign": tls(folders.theirs, "coordinator", folders.ours),
    }[case]
    async with served(tls(folders.ours, "alice", folders.ours)) as url:
        with pytest.raises(RunFailed) as error:
            more = settings({"alice": url}, peer_timeout=1.0)  # it may also be too busy, so it is dialled again
            await fedws.run(run_dir=tmp_path / "never", credentials=Credentials(KEY, own), **more)
        good = Credentials(KEY, tls(folders.ours, "coordinator", folders.ours))
        assert await ran({"alice": url}, tmp_path / "run", good) == [1, 1], "the node lives on"
    why = "if it requires client certificates, set --tls-cert and --tls-key"
    if case != "none":
        why = f"check that {own.cert} has not expired and is signed by the server's CA"
    assert str(error.value) == f"not connected within 1 s: alice at {url} (the server closed the connection; {why})"
    said = {
        "none": "peer did not return a certificate",
        "expired": "certificate has expired",
        "foreign": "unable to get local issuer certificate",
    }
    assert f"TLS handshake with 127.0.0.1 failed: {said[case]}" in caplog.text


async def test_a_caller_with_the_certificate_of_another_is_told(folders: Folders, tmp_path: Path) -> None:
    async with served(tls(folders.ours, "alice", folders.ours)) as url:
        bob = tls(folders.ours, "bob", folders.ours)
        said = await failed(url, tmp_path, Credentials(KEY, bob))
        assert said == "coordinator presented the certificate of bob; check --id"
        assert await ran({"alice": url}, tmp_path / "run", Credentials(KEY, bob, "bob")) == [1, 1]


async def test_a_certificate_is_no_key(folders: Folders, tmp_path: Path) -> None:
    async with served(tls(folders.ours, "alice", folders.ours)) as url:
        other = Credentials(NetworkKey(bytes([9]) * 32, "other"), tls(folders.ours, "coordinator", folders.ours))
        assert (await failed(url, tmp_path, other)).startswith("alice has a different network key; ")


async def test_a_plain_caller_of_a_node_with_tls_is_told(folders: Folders, tmp_path: Path) -> None:
    async with served(tls(folders.ours, "alice", folders.ours)) as url:
        plain = url.replace("wss", "ws")
        assert await failed(plain, tmp_path, Credentials(KEY)) == "the server uses TLS; use wss://"


async def test_a_caller_with_tls_of_a_plain_node_is_told(folders: Folders, tmp_path: Path) -> None:
    async with served(None) as url:
        security = Credentials(KEY, tls(folders.ours, "coordinator", folders.ours))
        said = await failed(url.replace("ws", "wss"), tmp_path, security)
        assert said == "the server does not use TLS; use ws://, or start it with --tls-cert"
        assert await ran({"alice": url}, tmp_path / "run", Credentials(KEY)) == [1, 1]


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_a_port_that_closes_at_once_may_be_a_node_tomorrow(
    scheme: str, folders: Folders, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As that of a container that is being started: it is waited for, and the wait is said."""
    caplog.set_level("INFO", "fedws")

    async def closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(closes, "127.0.0.1", 0) as server:
        url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        security = Credentials(KEY, tls(folders.ours, ca=folders.ours) if scheme == "wss" else None)
        with pytest.raises(fedws.RunFailed) as error:
            flags = settings({"alice": url}, peer_timeout=1.0)
            await fedws.run(run_dir=tmp_path / "never", credentials=security, **flags)
    why = (
        "the server closed the connection without an answer"
        if scheme == "ws"
        else "the connection ended during the TLS handshake"
    )
    assert str(error.value) == f"not connected within 1 s: alice at {url} ({why})"
    assert f"Waiting for alice at {url} ({why})" in caplog.messages


async def test_certificates_and_addresses_must_go_together(folders: Folders, tmp_path: Path) -> None:
    """Else what should be hidden would not be."""
    own = tls(folders.ours, "alice", folders.ours)
    with pytest.raises(UsageError, match=r"ws://h:1 is not encrypted, but certificates are given; use wss://"):
        await fedws.run(
            run_dir=tmp_path / "never", credentials=Credentials(KEY, own), **settings({"alice": "ws://h:1"})
        )
    with pytest.raises(UsageError, match="is not encrypted, but certificates are given"):
        async with fedws.serve(worker(), "ws://localhost:0", credentials=Credentials(KEY, own)):
            pass
    with pytest.raises(UsageError, match=r"^wss:// requires a certificate; set --tls-cert and --tls-key"):
        async with fedws.serve(worker(), "wss://localhost:0", credentials=Credentials(KEY)):
            pass
    assert not (tmp_path / "never").exists()


async def test_bytes_are_not_to_be_read_on_their_way(folders: Folders, tmp_path: Path) -> None:
    """What passes a proxy under TLS holds no word of ours; without TLS it does."""
    for own, scheme in ((None, "ws"), (tls(folders.ours, "alice", folders.ours), "wss")):
        seen = bytearray()

        async def passed(source: asyncio.StreamReader, target: asyncio.StreamWriter, seen: bytearray = seen) -> None:
            with contextlib.suppress(ConnectionError):
                while data := await source.read(2**16):
                    seen.extend(data)
                    target.write(data)
            target.close()

        async with served(own) as url:
            port = int(url.rpartition(":")[2])

            async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int = port) -> None:
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
                await asyncio.gather(passed(reader, far_writer), passed(far_reader, writer))

            async with await asyncio.start_server(between, "127.0.0.1", 0) as proxy:
                address = f"{scheme}://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
                caller = tls(folders.ours, "coordinator", folders.ours) if own is not None else None
                assert await ran({"alice": address}, tmp_path / scheme, Credentials(KEY, caller)) == [1, 1]
        words = [word for word in (b"FDWS", b"dense.weight", b"HTTP") if word in seen]
        assert words == ([] if own is not None else [b"FDWS", b"dense.weight", b"HTTP"])


async def test_who_does_not_finish_with_tls_is_not_waited_for(folders: Folders) -> None:
    """Nor who has finished and says no more."""
    async with served(tls(folders.ours, "alice", folders.ours), Limits(peer_timeout=1.2)) as url:
        port = int(url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(PATIENCE):
            assert await reader.read() == b""
        writer.close()
        context = tls(folders.ours, "coordinator", folders.ours).create_client_context()
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="alice")
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(ConnectionError):
                await reader.read()
        writer.close()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_half_open_tls_is_at_the_gate_too(
    loop: Callable[[], asyncio.AbstractEventLoop], folders: Folders, tmp_path: Path
) -> None:
    """Of 200 that are connected and do not go on, silent or in the middle of a word, as many stay as without TLS.

    An honest run takes the place of one more. No time can be up meanwhile: they have 100 s.
    """

    async def stranger(port: int, said: bytes) -> tuple[asyncio.Task[bytes], asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(said)
        return asyncio.create_task(reader.read(1)), writer

    async def crowded() -> None:
        async with contextlib.AsyncExitStack() as stack:
            async with served(tls(folders.ours, "alice", folders.ours), Limits(peer_timeout=600)) as url:
                port = int(url.rpartition(":")[2])
                words = (b"", b"\x16\x03\x01\x02\x00", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
                waiting = set()
                for first in range(0, 200, 50):  # no more than the system lets wait for a server
                    several = range(first, first + 50)
                    for read, writer in await asyncio.gather(*(stranger(port, words[n % 3]) for n in several)):
                        waiting.add(read)
                        stack.callback(writer.close)
                good = Credentials(KEY, tls(folders.ours, "coordinator", folders.ours))
                assert await ran({"alice": url}, tmp_path / "run", good) == [1, 1]
                async with asyncio.timeout(PATIENCE):
                    while len(waiting) > MAX_PENDING_CONNECTIONS - 1:
                        gone, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                        assert all(read.exception() is not None or read.result() == b"" for read in gone)
                assert await ran({"alice": url}, tmp_path / "again", good) == [1, 1]
                assert [read.done() for read in waiting] == [False] * (MAX_PENDING_CONNECTIONS - 1), (
                    "who was admitted has left room"
                )
            async with asyncio.timeout(PATIENCE):
                await asyncio.wait(waiting)  # the node has ended, and with it they
            assert all(read.exception() is not None or read.result() == b"" for read in waiting)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(crowded())


async def test_tls_is_only_looked_for_in_a_callers_first_bytes(tmp_path: Path) -> None:
    """The first byte of a TLS record may stand anywhere later on."""
    assert IncomingConnection._bytes_received == 0
    async with served(None) as url:
        port = int(url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as rough:
            rough.sendall(b"\x16\x03\x01\x02\x00")
            rough.settimeout(PATIENCE)
            said = await asyncio.to_thread(rough.recv, 100)
        assert said.startswith(b"HTTP/1.1 400 ")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"G")
        await writer.drain()
        writer.write(b"\x16\x03\x01\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            said = await reader.read()
        assert b"does not use TLS" not in said
        writer.close()
        await writer.wait_closed()
