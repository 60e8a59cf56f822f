"""One coordinator with two hundred devices: over direct links, over a broker, and over a broker with encryption.

The devices are workers in four processes that train nothing and answer immediately
(``benchmarks.network.idle_workers``). The model has 1.7 MB. In a round, one process therefore sends 345 MB and
receives as much; over a broker, the bytes cross the loopback interface twice.

The table contains the seconds of a round (median, without the first) and of the slowest one, and the number of results.
It also contains peak memory (VmHWM): of the coordinator when all devices are connected and at the end, and of the
broker.
"""

import json
import statistics
import tempfile
from pathlib import Path

from benchmarks.harness.job import PATIENCE
from benchmarks.harness.machine_load import Watch
from benchmarks.harness.processes import Crew
from benchmarks.harness.settings import Settings
from benchmarks.harness.tables import table
from benchmarks.network.coordinator_memory import LIMIT, MODEL_BYTES, serve
from benchmarks.network.transport_settings import ready

COUNT, ROUNDS = 200, 20
WAYS = ("dialled", "mqtt", "sealed")


def main(settings: Settings) -> None:
    """Measure one run of each way to reach the devices, and print a table."""
    count, rounds = (20, 3) if settings.quick else (COUNT, ROUNDS)
    print(f"devices: {count} devices that train nothing, mnist_cnn, {MODEL_BYTES:,} bytes, {rounds} rounds")
    rows = [run(way, count, rounds) for way in WAYS]
    head = ["way", "s a round", "slowest", "results", "linked MB", "end MB", "broker MB", "disturbed"]
    print(table(head, rows))


def run(name: str, count: int, rounds: int) -> list[object]:
    """Run the job over one way, and return its row of the table."""
    watch = Watch(f"{count} devices, {name:7}")
    with Crew() as crew, tempfile.TemporaryDirectory(prefix="fedws-bench-") as folder:
        way = ready(name, crew)
        workers = serve(crew, count, 0, way.join)
        names = [worker.partition("=")[0] for worker in workers]
        links = ["--listen", way.join, "--expect-workers", *names] if way.join else ["--workers", *workers]
        choice = [
            "--algorithm",
            "noop",
            "--plugin",
            "benchmarks/harness/noop_algorithm.py",
            "--rounds",
            str(rounds),
        ]
        place = ["--evaluator", "none", "--run-dir", str(Path(folder) / "run"), *way.flags]
        child = crew.start("coordinator", "run_websocket_client.py", *links, *choice, *place)
        child.wait_for(f"Training round 1/{rounds}", PATIENCE)
        linked = child.peak
        watch.begin()
        child.finish(LIMIT)
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        records = [record for record in map(json.loads, lines) if record["kind"] == "round"]
        seconds = [record["seconds"] for record in records[1:]]
        measured = watch.end(statistics.median(seconds))
        if way.between is not None:
            way.between.look()
        return [
            name,
            measured.seconds,
            f"{max(seconds):.1f}",
            f"{sum(record['num_results'] for record in records)} of {count * rounds}",
            f"{linked / 1e6:.0f}",
            f"{child.peak / 1e6:.0f}",
            f"{way.between.peak / 1e6:.0f}" if way.between is not None else "",
            "disturbed" if measured.disturbed else "",
        ]
