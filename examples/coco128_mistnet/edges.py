"""The edges of the example, which are workers on this machine with a share of the pictures each."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import fedws

NAMES = ("edge1", "edge2")


@contextlib.contextmanager
def run_edges(flags: Sequence[str], policy: Path) -> Iterator[list[str]]:
    """Run the edges while the context is open, and yield ``ID=URL`` of each. Raise RunFailed if one does not serve."""
    processes: dict[str, subprocess.Popen[str]] = {}
    try:
        for number, name in enumerate(NAMES):
            own_flags = [
                "--id",
                name,
                "--partition",
                "iid",
                "--share",
                f"{number}/{len(NAMES)}",
                "--policy",
                str(policy),
            ]
            command = [sys.executable, "-m", "fedws", "worker", *own_flags, "--port", "0", "--until-eof", *flags]
            processes[name] = subprocess.Popen(  # noqa: S603
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        yield [f"{name}={_wait_for_url(name, process)}" for name, process in processes.items()]
    finally:
        for process in processes.values():
            process.terminate()  # if this process is killed, the end of standard input ends the edges
        for process in processes.values():
            _wait_for_end(process)


def _wait_for_url(name: str, process: subprocess.Popen[str]) -> str:
    """Return the URL of an edge when it serves."""
    assert process.stdout is not None
    line = ""
    for line in process.stdout:
        if line.startswith(f"{name} is serving at "):
            print(line, end="", flush=True)
            return line.split()[-1]
    raise fedws.RunFailed(f"{name} ended before it served: {line.strip() or 'no output'}")


def _wait_for_end(process: subprocess.Popen[str]) -> None:
    try:
        process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
