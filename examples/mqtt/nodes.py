"""The nodes of the example, which are processes on this machine with one user of the broker each."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

import fedws
from fedws.core.addresses import PASSWORD_VARIABLE


@contextlib.contextmanager
def run_nodes(address: str, passwords: Mapping[str, str], flags: Sequence[str]) -> Iterator[None]:
    """Run one node for each user at the broker, while the context is open. The node ``testing`` is the evaluator.

    Raise RunFailed if a node does not connect.
    """
    processes: dict[str, subprocess.Popen[str]] = {}
    try:
        for name, password in passwords.items():
            url = f"mqtt://{name}@{address}"
            own_flags = ["--id", name, "--join", url, *(["--evaluator"] if name == "testing" else [])]
            processes[name] = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "fedws", "worker", *own_flags, "--encrypt-payloads", "--until-eof", *flags],
                env={**os.environ, PASSWORD_VARIABLE: password},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        for name, process in processes.items():
            _wait_until_connected(name, process, f" at mqtt://{name}@{address}\n")
        yield
    finally:
        for process in processes.values():
            process.terminate()  # if this process is killed, the end of standard input ends the nodes
        for process in processes.values():
            _wait_for_end(process)


def _wait_until_connected(name: str, process: subprocess.Popen[str], line_end: str) -> None:
    """Return when the node is connected to the broker."""
    assert process.stdout is not None
    line = ""
    for line in process.stdout:
        if line.startswith(f"{name} ") and line.endswith(line_end):
            print(line, end="", flush=True)
            return
    raise fedws.RunFailed(f"{name} ended before it connected to the broker: {line.strip() or 'no output'}")


def _wait_for_end(process: subprocess.Popen[str]) -> None:
    try:
        process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
