"""The edges: workers as processes of this machine, each with its share of the pictures; always ended."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import fedws

NAMES = ("edge1", "edge2")


@contextlib.contextmanager
def served(flags: Sequence[str], policy: Path) -> Iterator[list[str]]:
    """The edges serve while the context lasts; gives ``ID=URL`` of each. Raises RunFailed when one does not."""
    started: dict[str, subprocess.Popen[str]] = {}
    try:
        for number, name in enumerate(NAMES):
            own = ["--id", name, "--partition", "iid", "--share", f"{number}/{len(NAMES)}", "--policy", str(policy)]
            command = [sys.executable, "-m", "fedws", "worker", *own, "--port", "0", "--until-eof", *flags]
            started[name] = subprocess.Popen(  # noqa: S603
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        yield [f"{name}={_url(name, process)}" for name, process in started.items()]
    finally:
        for process in started.values():
            process.terminate()  # should this process be killed, the end of their standard input ends them
        for process in started.values():
            _end(process)


def _url(name: str, process: subprocess.Popen[str]) -> str:
    """Where a process serves, once it does."""
    assert process.stdout is not None
    line = ""
    for line in process.stdout:
        if line.startswith(f"{name} is serving at "):
            print(line, end="", flush=True)
            return line.split()[-1]
    raise fedws.RunFailed(f"{name} has ended: {line.strip() or 'it said nothing'}")


def _end(process: subprocess.Popen[str]) -> None:
    try:
        process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
