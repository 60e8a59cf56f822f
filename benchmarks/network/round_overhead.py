"""The overhead of a round: three workers that train nothing, against the same bytes over bare ``websockets``.

fedws runs with ``benchmarks.harness.noop_algorithm``. In a round, the coordinator sends the model to three workers,
receives it from them, and averages it. The seconds of a round are those of its ``round`` record. The figure of a run is
the median of its rounds; the first round does not count on any side. The peer
(``benchmarks.network.websocket_echo``) sends the same bytes in fragments of 1 MiB between four processes. A second
table compares fedws with plain blocking sockets (``benchmarks.network.socket_echo``), which are the floor of any
transport in Python.
"""

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.harness.job import PATIENCE, WORKERS, Job
from benchmarks.harness.machine_load import Watch
from benchmarks.harness.pairs import Pair, Run, Summary
from benchmarks.harness.processes import Child, Crew
from benchmarks.harness.settings import Settings
from benchmarks.harness.tables import ratios, table
from benchmarks.network import socket_echo, websocket_echo

TARGET, TARGET_BYTES = 1.5, 1.002
LIMIT = 240.0
"""Timeout of one run in seconds."""
FLOWER = """\
Flower 1.41 on two cores, published figures that this benchmark does not measure: 6.3 s a round with 1.7 MB and 9.8 s
with 100 MB in its deployment; 0.035 s and 3.7 s in its old single-process server."""


@dataclass(frozen=True)
class Model:
    """A model of the benchmark, with its size in bytes and its usual number of rounds."""

    name: str
    size: int
    rounds: int


MODELS = (Model("mnist_cnn", 1_724_320, 20), Model("big_100mb", 100_000_000, 5))


@dataclass(frozen=True)
class Traffic:
    """Traffic of one run in both directions of all links, by two independent counts."""

    recorded: int
    """Number of bytes in the records of the run."""
    loopback: int
    """Number of bytes that the kernel counted on the loopback interface during the run.

    It is an upper bound, because it includes all headers and the traffic of other programs.
    """
    packets: int

    @property
    def payload(self) -> int:
        """Return the bytes on the loopback interface without IPv4 and TCP headers (52 bytes with timestamps)."""
        return self.loopback - 52 * self.packets


def main(settings: Settings) -> None:
    """Run the pairs of both sizes and print them."""
    for model in MODELS:
        rounds = 3 if settings.quick else model.rounds
        print(f"round: {len(WORKERS)} workers, {model.name}, {model.size:,} bytes, {rounds} rounds")
        pairs, plain, carried = [], [], []
        peaks: list[list[str]] = []
        for number in range(1, settings.pairs_or(5) + 1):
            ours, traffic, peaks = product(settings.data_dir, model, rounds, f"pair {number}, ours   ")
            echoed = measure_echo(websocket_echo, model.size, rounds, f"pair {number}, echo   ")
            pairs.append(Pair(ours, echoed))
            plain.append(Pair(ours, measure_echo(socket_echo, model.size, rounds, f"pair {number}, sockets")))
            carried.append(traffic)
        print(ratios("ours", "echo", pairs, TARGET))
        print()
        print("for comparison: plain blocking sockets")
        print(ratios("ours", "sockets", plain))
        print()
        print(traffics(carried, 2 * len(WORKERS) * model.size * rounds))
        print()
        print("peak memory of each process in the last run (VmHWM), when it was ready for round 1 and at the end")
        print(table(["process", "ready MB", "end MB"], peaks))
        print()
    print(FLOWER)


def product(data_dir: Path, model: Model, rounds: int, what: str) -> tuple[Run, Traffic, list[list[str]]]:
    """Run one job of fedws; return its median seconds a round, its traffic, and the rows of peak memory."""
    watch = Watch(what)
    with Crew() as crew:
        job = idle(crew, data_dir, model, rounds)
        before = loopback()
        client = job.coordinate()
        client.wait_for(f"Training round 1/{rounds}", PATIENCE)
        children = {**job.nodes, "coordinator": client}
        ready = {name: child.peak for name, child in children.items()}
        watch.begin()
        client.finish(LIMIT)
        after = loopback()
        records = all_rounds(job, client, rounds)
        run = watch.end(statistics.median(record["seconds"] for record in records[1:]))
        recorded = sum(record["bytes_sent"] + record["bytes_received"] for record in records)
        for child in children.values():
            child.look()
        peaks = [[name, f"{ready[name] / 1e6:.0f}", f"{child.peak / 1e6:.0f}"] for name, child in children.items()]
        return run, Traffic(recorded, after[0] - before[0], after[1] - before[1]), peaks


def idle(
    crew: Crew,
    data_dir: Path,
    model: Model,
    rounds: int,
    *,
    flags: Sequence[str] = (),
    coordinator_flags: Sequence[str] = (),
    tls: Path | None = None,
    join: str = "",
) -> Job:
    """Start a job whose workers train nothing; the parameters are those of ``benchmarks.harness.job.Job``."""
    choice = ["--algorithm", "noop", "--model", model.name, "--rounds", str(rounds), *coordinator_flags]
    plugin = ["--plugin", "benchmarks/harness/noop_algorithm.py", *flags]
    return Job(crew, data_dir, evaluator=False, flags=plugin, coordinator_flags=choice, tls=tls, join=join)


def measured(job: Job, rounds: int, watch: Watch) -> Run:
    """Coordinate a job, and return its median seconds a round, without the first."""
    client = job.coordinate()
    client.wait_for(f"Training round 1/{rounds}", PATIENCE)
    watch.begin()
    client.finish(LIMIT)
    return watch.end(statistics.median(record["seconds"] for record in all_rounds(job, client, rounds)[1:]))


def all_rounds(job: Job, client: Child, rounds: int) -> list[dict[str, Any]]:
    """Return the records of the job's rounds; raise RuntimeError if there are more or fewer than ``rounds``."""
    records = job.records("round")
    if len(records) != rounds:
        raise RuntimeError(client.describe_failure(f"recorded {len(records)} rounds, expected {rounds}"))
    return records


def measure_echo(peer: ModuleType, size: int, rounds: int, what: str) -> Run:
    """Run the processes of an echo program, and return its median seconds a round, without the first."""
    watch = Watch(what)
    with Crew() as crew:
        servers = [crew.start("echo worker", "-m", peer.__name__, "serve") for _ in WORKERS]
        ports = [server.wait_for(r"port (\d+)", PATIENCE)[1][1] for server in servers]
        watch.begin()
        driver = crew.start("echo driver", "-m", peer.__name__, "drive", str(size), str(rounds), *ports)
        driver.finish(LIMIT)
        seconds = [float(found[1]) for _, found in driver.matches(r"round (\S+)")]
        return watch.end(statistics.median(seconds[1:]))


def loopback() -> tuple[int, int]:
    """Return the bytes and packets that the kernel has counted on the loopback interface so far."""
    fields = re.search(r"^\s*lo:(.*)$", Path("/proc/net/dev").read_text(), re.MULTILINE)
    assert fields is not None, "loopback interface lo not found in /proc/net/dev"
    numbers = fields[1].split()
    return int(numbers[0]), int(numbers[1])


def traffics(carried: list[Traffic], model_bytes: int) -> str:
    """Return the table of bytes, each divided by ``model_bytes``.

    ``model_bytes`` is 2 x workers x bytes of the model x rounds.
    """
    rows = [
        [f"{number}", *(f"{count / model_bytes:.5f}" for count in (t.recorded, t.payload, t.loopback))]
        for number, t in enumerate(carried, 1)
    ]
    summary = Summary.of([traffic.recorded / model_bytes for traffic in carried])
    assert summary is not None
    return "\n".join(
        [
            f"bytes on the links over 2 x workers x model bytes ({model_bytes:,} in a run)",
            table(["run", "recorded", "loopback, no headers", "loopback"], rows),
            f"recorded: median {summary.median:.5f}; target: at most {TARGET_BYTES:g}; "
            f"{'within' if summary.high <= TARGET_BYTES else 'above'} it",
        ]
    )
