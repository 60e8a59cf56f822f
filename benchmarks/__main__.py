"""Command line of the benchmarks: ``python -m benchmarks [NAME ...]``.

Without names, all benchmarks run except mistnet. The module of each one describes what it measures:

- checkpoint, secure and start measure the cost of checkpoints, of authentication with TLS, and of a start.
- devices and reach compare the ways to reach a device.
- round and floor compare fedws with bare websockets and with plain PyTorch.
- memory measures the coordinator's memory, and curve the accuracy of the demo.
- stragglers and stragglers-real measure what asynchronous algorithms gain.
- mistnet measures what the cuts and encodings of MistNet cost. It takes up to two hours.
"""

import argparse
import importlib
import platform
import signal
import sys
from types import FrameType

import psutil

from benchmarks.harness.settings import Settings
from fedws.data.download import resolve_data_dir

BENCHMARKS = {
    "checkpoint": "network.checkpoint_overhead",
    "curve": "accuracy.mnist_curve",
    "devices": "network.many_devices",
    "floor": "network.job_overhead",
    "memory": "network.coordinator_memory",
    "reach": "network.transport_overhead",
    "round": "network.round_overhead",
    "secure": "network.security_overhead",
    "start": "network.start_time",
    "stragglers": "simulation.straggler_time",
    "stragglers-real": "simulation.straggler_time_on_links",
    "mistnet": "mistnet.accuracy_and_cost",
}
"""Module of each benchmark, by its name on the command line."""
BY_NAME_ONLY = {"mistnet"}
"""Benchmarks that run only if they are named."""


def main() -> int:
    """Run the chosen benchmarks one after another, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"benchmarks to run: {', '.join(BENCHMARKS)} (all but mistnet)"
    )
    parser.add_argument("--pairs", type=int, help="number of pairs of runs (each benchmark has its own default)")
    parser.add_argument("--data-dir", help="directory of the data sets (default: $FEDWS_DATA, or the user's cache)")
    parser.add_argument(
        "--quick", action="store_true", help="short runs that test a benchmark; their figures mean nothing"
    )
    parser.add_argument("--full", action="store_true", help="mistnet: use the models of the paper (slow without a GPU)")
    given = parser.parse_args()
    for name in given.names:
        if name not in BENCHMARKS:
            parser.error(f"unknown benchmark {name!r}; choose from {', '.join(BENCHMARKS)}")
    if given.pairs is not None and given.pairs < 1:
        parser.error(f"--pairs: expected at least 1, got {given.pairs}")
    signal.signal(signal.SIGTERM, _end)  # an exception, so that the benchmark ends its processes
    settings = Settings(resolve_data_dir(given.data_dir), given.pairs, given.quick, given.full)
    print(f"{psutil.cpu_count()} cores, {platform.machine()}, {platform.system()}, Python {platform.python_version()}")
    failed = 0
    for name in given.names or [name for name in BENCHMARKS if name not in BY_NAME_ONLY]:
        print()
        try:
            importlib.import_module(f"benchmarks.{BENCHMARKS[name]}").main(settings)
        except RuntimeError as error:
            print(f"\n{name} failed: {error}", file=sys.stderr)
            failed = 1
        except KeyboardInterrupt:
            print("\ninterrupted; all processes are ended", file=sys.stderr)
            return 130
    return failed


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
