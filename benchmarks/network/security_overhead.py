"""The cost of authentication and of TLS: three variants in turn, with three workers that train nothing.

The variants are ``--insecure`` over ``ws://``, the network key over ``ws://``, and the key with mutual TLS over
``wss://``. ``fedws.security.certificates`` creates the certificates. A round and its figure are those of
``benchmarks.network.round_overhead``, without the first round. A link proves the key once, before any round. The
ratio of the key therefore only shows by how much two equal runs differ. The ratio of TLS includes the encryption and
decryption of the model on its way to each worker and back, all on the cores of one machine.

A second table shows the cost of the key and of TLS per link: the time of one handshake. It runs from the connection
attempt of this process to the ``welcome`` of an idle worker. Reading the files of the certificates is a part of it.
"""

import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop

from benchmarks.harness.job import PATIENCE, WORKERS
from benchmarks.harness.machine_load import Watch
from benchmarks.harness.pairs import Pair, Run, added
from benchmarks.harness.processes import ENVIRONMENT, Crew
from benchmarks.harness.settings import Settings
from benchmarks.harness.tables import ratios, table
from benchmarks.network.round_overhead import MODELS, Model, idle, measured
from fedws.coordinator.connector import Connector
from fedws.coordinator.link import Link
from fedws.network.base import Limits
from fedws.protocol.messages import DEFAULT_COORDINATOR_ID
from fedws.protocol.run_claim import RunClaim, derive_takeover_key
from fedws.security import certificates, network_key
from fedws.security.credentials import Credentials
from fedws.security.tls import TlsConfig

VARIANTS = ("insecure", "key", "TLS")
DIALS = 10


def main(settings: Settings) -> None:
    """Run the variants of both sizes and print them."""
    dials: dict[str, list[float]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory(prefix="fedws-bench-certs-") as folder:
        issue_certificates(Path(folder))
        for model in MODELS:
            rounds = 3 if settings.quick else 2 * model.rounds
            print(f"secure: {len(WORKERS)} workers, {model.name}, {model.size:,} bytes, {rounds} rounds")
            keyed, encrypted = [], []
            for number in range(1, settings.pairs_or(5) + 1):
                runs = {}
                for name in VARIANTS:
                    what = f"turn {number}, {name:8}"
                    runs[name], seconds = run(settings.data_dir, model, rounds, what, name, Path(folder))
                    dials[name] += seconds
                keyed.append(Pair(runs["key"], runs["insecure"]))
                encrypted.append(Pair(runs["TLS"], runs["key"]))
            for ours, theirs, pairs in (("key", "insecure", keyed), ("TLS", "key", encrypted)):
                print(ratios(ours, theirs, pairs))
                print(f"{ours} adds {1000 * added(pairs):.1f} ms to a round (median of {len(pairs)})")
                print()
    print("for comparison: one handshake over the loopback interface, from the attempt to the welcome, in milliseconds")
    print(table(["variant", "attempts", "median", "min", "max"], [[name, *spread(dials[name])] for name in VARIANTS]))


def issue_certificates(folder: Path) -> None:
    """Create a CA and a certificate for each worker and for the coordinator in ``folder``."""
    certificates.create_ca(folder)
    for name in (*WORKERS, DEFAULT_COORDINATOR_ID):
        certificates.issue_certificate(folder, name)


def run(
    data_dir: Path, model: Model, rounds: int, what: str, variant: str, folder: Path
) -> tuple[Run, Sequence[float]]:
    """Run one job; return its median seconds a round, and the seconds of several handshakes before it."""
    watch = Watch(what)
    with Crew() as crew:
        flags = ["--insecure"] if variant == "insecure" else []
        job = idle(crew, data_dir, model, rounds, flags=flags, tls=folder if variant == "TLS" else None)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            dials = runner.run(dialled(WORKERS[0], job.addresses[WORKERS[0]], security(variant, folder)))
        return measured(job, rounds, watch), dials


def security(variant: str, folder: Path) -> Credentials:
    """Return the credentials of the coordinator of a variant; the key is the one of the workers' processes."""
    if variant == "insecure":
        return Credentials(None)
    files = (folder / f"{DEFAULT_COORDINATOR_ID}.pem", folder / f"{DEFAULT_COORDINATOR_ID}.key", folder / "ca.pem")
    return Credentials(network_key.load_network_key(None, ENVIRONMENT), TlsConfig(*files) if variant == "TLS" else None)


async def dialled(node: str, url: str, security: Credentials) -> Sequence[float]:
    """Connect to a worker ``DIALS`` times, and return the seconds from each attempt to its ``welcome``.

    One attempt before them does not count. Raise RuntimeError if a worker sends no ``welcome``.
    """
    seconds = []
    for _ in range(DIALS + 1):
        claim = RunClaim("benchmark", security.coordinator, derive_takeover_key(bytes(32), node))
        connector = Connector(node, url, "worker", claim, "mnist", Limits(), 1, security)
        link = Link(connector)
        begun = time.perf_counter()
        tasks = [asyncio.create_task(work) for work in (link.run(lambda event: None), link.connected.wait())]
        await asyncio.wait(tasks, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        seconds.append(time.perf_counter() - begun)
        welcomed, reason = link.connected.is_set(), link.last_error
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):  # an error of the link itself is raised
                await task
        if not welcomed:
            raise RuntimeError(f"{node} did not accept a run: {reason}")
    return seconds[1:]


def spread(seconds: Sequence[float]) -> list[object]:
    """Return the number of times, then their median, minimum and maximum in milliseconds.

    >>> spread([0.002, 0.001, 0.004])
    [3, '2.0', '1.0', '4.0']
    """
    return [len(seconds), *(f"{1000 * of(seconds):.1f}" for of in (statistics.median, min, max))]
