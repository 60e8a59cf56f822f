"""The cost of each way to reach a device, compared with direct links: the same run over all ways in turn.

There are three runs. In two of them, three workers train nothing, with models of 1.7 MB and 100 MB (see
``benchmarks.network.round_overhead``). The third is ten rounds of MNIST, split by digits, as the demo trains them.
The figure of a run is the median of its rounds' seconds, without the first. Over a broker, every byte crosses the
loopback interface twice, on the cores of one machine. The broker is Mosquitto, and the S3 server is moto, which is
written in Python. All runs with the same model must end with bit-identical weights.

Bytes are divided by the bytes of the model in both directions. "recorded" are the bytes in the coordinator's records,
including those that a store carried. "loopback" are the bytes on the loopback interface, without the headers of TCP/IP.
Memory is the peak of a process (VmHWM).
"""

import hashlib
import statistics
from dataclasses import dataclass

from benchmarks.harness.job import PATIENCE, WORKERS, Job
from benchmarks.harness.machine_load import Watch
from benchmarks.harness.pairs import Run
from benchmarks.harness.processes import Crew
from benchmarks.harness.settings import Settings
from benchmarks.harness.tables import table
from benchmarks.network.round_overhead import LIMIT, MODELS, Model, all_rounds, idle, loopback
from benchmarks.network.transport_settings import WAYS, ready

TARGETS = (("mqtt", "dialled", 3.0), ("sealed", "mqtt", 1.5))
"""Ways, the ways they are compared with, and the largest ratio of their seconds with the model of 100 MB."""
TRAINED = Model("mnist_cnn", 1_724_320, 10)


@dataclass(frozen=True)
class Figures:
    """The figures of one run."""

    run: Run
    recorded: float
    carried: float
    """Number of bytes on the loopback interface, divided by the bytes of the model; so is ``recorded``."""
    coordinator: int
    worker: int
    between: int
    """Peak memory in bytes of the broker or store, 0 for a way without one.

    ``worker`` is the largest peak memory of a worker in bytes, and ``coordinator`` the one of the coordinator.
    """
    model: str
    """SHA-256 digest of the final weights."""


def main(settings: Settings) -> None:
    """Run all ways in turn for each model, and print a table of each."""
    runs = [*((f"{model.name}, no training", model, False) for model in MODELS), ("mnist, trained", TRAINED, True)]
    for title, model, trains in runs:
        rounds = 3 if settings.quick else min(model.rounds, 10)
        print(f"reach: {len(WORKERS)} workers, {title}, {model.size:,} bytes, {rounds} rounds")
        found: dict[str, list[Figures]] = {way: [] for way in WAYS}
        for turn in range(1, settings.pairs_or(3) + 1):
            for way in WAYS:
                found[way].append(measured(settings, model, rounds, way, f"turn {turn}, {way:7}", trains=trains))
        print(format_table(found))
        digests = {figures.model for each in found.values() for figures in each}
        print(
            f"final weights: {'identical in all runs' if len(digests) == 1 else f'DIFFERENT, {len(digests)} versions'}"
        )
        for way, other, most in TARGETS if model.size == MODELS[-1].size else ():
            ratio = statistics.median(ratios(found, way, other))
            verdict = "within" if ratio <= most else "above"
            print(f"target: {way} at most {most:g} times {other}; {ratio:.2f}, {verdict} it")
        print(flush=True)


def measured(settings: Settings, model: Model, rounds: int, name: str, what: str, *, trains: bool) -> Figures:
    """Run one job over one way, and return its figures."""
    watch = Watch(what)
    with Crew() as crew:
        way = ready(name, crew)
        if trains:
            flags = ["--rounds", str(rounds)]
            job = Job(crew, settings.data_dir, evaluator=False, flags=way.flags, coordinator_flags=flags, join=way.join)
        else:
            job = idle(crew, settings.data_dir, model, rounds, flags=way.flags, join=way.join)
        client = job.coordinate()
        client.wait_for(f"Training round 1/{rounds}", PATIENCE)
        before = loopback()
        watch.begin()
        client.finish(LIMIT)
        after = loopback()
        records = all_rounds(job, client, rounds)
        run = watch.end(statistics.median(record["seconds"] for record in records[1:]))
        for child in (*job.nodes.values(), *([way.between] if way.between is not None else [])):
            child.look()
        bytes_ = 2 * len(WORKERS) * model.size * rounds
        return Figures(
            run,
            sum(record["bytes_sent"] + record["bytes_received"] for record in records) / bytes_,
            (after[0] - before[0] - 52 * (after[1] - before[1])) / bytes_,
            client.peak,
            max(child.peak for child in job.nodes.values()),
            way.between.peak if way.between is not None else 0,
            hashlib.sha256((job.run_dir / "model.safetensors").read_bytes()).hexdigest(),
        )


def ratios(found: dict[str, list[Figures]], way: str, other: str) -> list[float]:
    """Return the ratio of the seconds of two ways for each turn."""
    return [a.run.seconds / b.run.seconds for a, b in zip(found[way], found[other], strict=True)]


def format_table(found: dict[str, list[Figures]]) -> str:
    """Return the table: a row per way with the medians of all turns, and the ratios to direct links."""
    rows = []
    for way, each in found.items():
        of = ratios(found, way, "dialled")
        disturbed = sum(figures.run.disturbed for figures in each)
        rows.append(
            [
                way,
                statistics.median(figures.run.seconds for figures in each),
                f"{statistics.median(of):.2f} ({min(of):.2f}-{max(of):.2f})",
                f"{statistics.median(figures.recorded for figures in each):.3f}",
                f"{statistics.median(figures.carried for figures in each):.3f}",
                *(f"{max(getattr(figures, of) for figures in each) / 1e6:.0f}" for of in PROCESSES),
                f"{disturbed} of {len(each)}" if disturbed else "",
            ]
        )
    head = [
        "way",
        "s a round",
        "to dialled",
        "recorded",
        "loopback",
        "coord. MB",
        "worker MB",
        "between MB",
        "disturbed",
    ]
    return table(head, rows)


PROCESSES = ("coordinator", "worker", "between")
