"""``python -m benchmarks [NAME ...]``: run these benchmarks, or nearly all; see each one's own file.

checkpoint, secure and start are what these cost; devices and reach compare the ways to reach a device; round and floor
compare with bare websockets and plain PyTorch; memory counts bytes; curve shows accuracies; stragglers and
stragglers-real what asynchronous strategies gain; mistnet shows what its cuts and encodings cost, takes up to two
hours, and runs only by its name.
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
"""The module of each benchmark, under its name on the command line."""
BY_NAME_ONLY = {"mistnet"}
"""Benchmarks that run only when they are named."""


def main() -> int:
    """Run what is named, one after another."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)}; none: all but mistnet")
    parser.add_argument("--pairs", type=int, help="how many pairs of runs (each benchmark has its own default)")
    parser.add_argument("--data-dir", help="folder that holds the data sets; else $FEDWS_DATA")
    parser.add_argument("--quick", action="store_true", help="short runs, to see that it works; no figures")
    parser.add_argument("--full", action="store_true", help="mistnet: the paper's nets; wants a GPU")
    given = parser.parse_args()
    for name in given.names:
        if name not in BENCHMARKS:
            parser.error(f"there is no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    if given.pairs is not None and given.pairs < 1:
        parser.error("--pairs must be at least 1")
    signal.signal(signal.SIGTERM, _end)  # so that the processes of a benchmark end with it
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
            print("\nstopped; every process has been ended", file=sys.stderr)
            return 130
    return failed


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
