"""Authentication and TLS in benchmarks: whose keys and certificates their processes have, and timed handshakes."""

import os
from pathlib import Path

import pytest
import torch

from benchmarks.harness.job import WORKERS, Job
from benchmarks.harness.processes import ENVIRONMENT, Crew
from benchmarks.network import security_overhead
from fedws import ImageDataset, Worker, serve
from fedws.core.errors import UnexpectedNode
from fedws.protocol.messages import DEFAULT_COORDINATOR_ID
from fedws.security import certificates
from fedws.security.credentials import Credentials
from fedws.security.network_key import NetworkKey
from fedws.security.tls import TlsConfig


def test_no_process_of_a_benchmark_has_the_users_key_or_writes_their_audit_log() -> None:
    """Its own processes share one key, and none of the shell's."""
    assert ENVIRONMENT["FEDWS_KEY"] != os.environ["FEDWS_KEY"]
    imports = "from fedws.privacy import audit_log as audit\nfrom fedws.security import network_key as keys"
    code = f"{imports}\nprint(keys.load_network_key().hex_text, audit.default_audit_path('alice'))"
    with Crew() as crew:
        child = crew.start("teller", "-c", code)
        _, found = child.wait_for(r"^(\S+) (\S+)$", 60)
    assert found[1] == ENVIRONMENT["FEDWS_KEY"] == security_overhead.security("key", Path()).key.hex_text  # type: ignore[union-attr]
    assert found[2].startswith(ENVIRONMENT["XDG_STATE_HOME"])


@pytest.fixture(scope="module")
def certificate_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the benchmark's certificates."""
    folder = tmp_path_factory.mktemp("certificates")
    security_overhead.issue_certificates(folder)
    return folder


def test_every_node_of_a_job_under_tls_is_given_its_own_certificate(
    certificate_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*WORKERS, DEFAULT_COORDINATOR_ID):
        certificates.check_certificate(certificate_folder / f"{name}.pem", name)
    started: dict[str, tuple[str, ...]] = {}

    class Ready:
        def wait_for(self, *given: object) -> None:
            """At once."""

    monkeypatch.setattr(Crew, "start", lambda self, name, *words: started.update({name: words}) or Ready())
    with Crew() as crew:
        job = Job(crew, Path(), evaluator=False, tls=certificate_folder)
        job.coordinate()
    for name in (*WORKERS, DEFAULT_COORDINATOR_ID):
        words = started[name]
        given = [words[words.index(flag) + 1] for flag in ("--tls-cert", "--tls-key", "--tls-ca")]
        assert given == [str(certificate_folder / file) for file in (f"{name}.pem", f"{name}.key", "ca.pem")]
    assert all(url.startswith("wss://") for url in job.addresses.values())


@pytest.mark.parametrize("variant", security_overhead.VARIANTS)
async def test_handshakes_are_timed_in_every_variant(variant: str, certificate_folder: Path) -> None:
    data = ImageDataset(torch.zeros(1, 1, 28, 28, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64), (0.0,), (1.0,))
    caller = security_overhead.security(variant, certificate_folder)
    own = (
        TlsConfig(*(certificate_folder / file for file in ("alice.pem", "alice.key", "ca.pem")))
        if variant == "TLS"
        else None
    )
    url = "ws://localhost:0" if own is None else "wss://localhost:0"
    async with serve(Worker("alice", "mnist", data), url, credentials=Credentials(caller.key, own)) as address:
        seconds = await security_overhead.dialled("alice", address, caller)
    assert len(seconds) == security_overhead.DIALS
    assert min(seconds) > 0


async def test_a_handshake_that_fails_is_no_figure() -> None:
    data = ImageDataset(torch.zeros(1, 1, 28, 28, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64), (0.0,), (1.0,))
    own = Credentials(NetworkKey(bytes(32), "a test"))
    async with serve(Worker("alice", "mnist", data), "ws://localhost:0", credentials=own) as address:
        with pytest.raises(UnexpectedNode, match="has a different network key"):
            await security_overhead.dialled("alice", address, security_overhead.security("key", Path()))
