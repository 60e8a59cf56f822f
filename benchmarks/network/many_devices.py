"""Two hundred devices and one coordinator: dialled, over one broker, and over it sealed.

The devices are workers in four processes that train nothing and answer at once
(:mod:`benchmarks.network.idle_workers`), the model is the one of 1.7 MB; so a round is to send 345 MB and to get as
much back, through one process, and over a broker twice. Printed are the seconds of a round (median, without the first),
whether all answered every round, and the peak memory (VmHWM) of the coordinator when all are linked and in the end, and
of the broker.
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
    """One run of each way."""
    count, rounds = (20, 3) if settings.quick else (COUNT, ROUNDS)
    print(f"devices: {count} devices that train nothing, mnist_cnn, {MODEL_BYTES:,} bytes, {rounds} rounds")
    rows = [run(way, count, rounds) for way in WAYS]
    head = ["way", "s a round", "slowest", "results", "linked MB", "end MB", "broker MB", "disturbed"]
    print(table(head, rows))


def run(name: str, count: int, rounds: int) -> list[object]:
    """The line of one way."""
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
