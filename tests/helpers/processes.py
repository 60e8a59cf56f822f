"""Commands of fedws as processes, whose output is read line by line, and which are always ended.

A process that imports torch takes seconds to start. Most tests therefore run their commands in copies of one process
that has imported everything (multiprocessing's fork server). ``Processes.start`` starts one the ordinary way.
"""

import contextlib
import multiprocessing
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from tests.helpers.support import REPOSITORY

PATIENCE = 120.0
"""Timeout in seconds of events that take one or two; only a failing test waits so long."""
SECONDS = 20.0
"""Seconds within which a command ends after a signal on a busy machine."""
NODES = ("alice", "bob", "charlie", "testing")
TINY = """
import torch
import fedws

@fedws.register("dataset", "tiny")
class Tiny(fedws.ImageDataset):
    title, model = "Tiny", "linear"

    def __init__(self, root, train):
        pixels = torch.arange(40 * 784).remainder(256).to(torch.uint8).reshape(40, 1, 28, 28)
        super().__init__(pixels, torch.arange(40) % 10, (0.5,), (0.5,))
"""
"""Data set of processes that only have to run; the digits would need an import of scikit-learn."""
NO_NETWORK = {f"{kind}_proxy": "http://127.0.0.1:1" for kind in ("http", "https", "all", "HTTP", "HTTPS", "ALL")}
"""Environment in which only this machine can be reached."""

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.helpers.preload"])


class Command:
    """A running command, with its lines, signals and end."""

    def __init__(self, pid: int, wait: Callable[[float], int | None], out: int, err: int) -> None:
        self.pid = pid
        self._wait = wait
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._open = 2
        self._news = threading.Condition()
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            for stream, lines in ((out, self.lines), (err, self.errors))
        ]
        for reader in self._readers:
            reader.start()

    def line(self, pattern: str, after: int = 0, *, error: bool = False) -> re.Match[str]:
        """Wait for a line with ``pattern`` after so many lines; fail the test if the command ends before."""
        lines, seen, until = self.errors if error else self.lines, after, time.monotonic() + PATIENCE
        with self._news:
            while True:
                for text in lines[seen:]:
                    if found := re.search(pattern, text):
                        return found
                seen = len(lines)
                if not self._open:
                    raise AssertionError(f"ended without a line {pattern!r}:\n{self.everything}")
                if not self._news.wait(until - time.monotonic()):
                    raise AssertionError(f"no line {pattern!r} in {PATIENCE:g} s:\n{self.everything}")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to this process alone."""
        os.kill(self.pid, number)

    def end(self, seconds: float = PATIENCE) -> int:
        """Wait for the process to end by itself; return its exit status."""
        status = self._wait(seconds)
        assert status is not None, f"still running after {seconds:g} s:\n{self.everything}"
        for reader in self._readers:
            reader.join(PATIENCE)
        return status

    def kill(self) -> None:
        """Kill the process and its children."""
        family: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            if self._wait(0) is None:
                parent = psutil.Process(self.pid)
                family = [*parent.children(recursive=True), parent]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.end()

    @property
    def everything(self) -> str:
        """Output of the command so far, for the report of a failed test."""
        return "\n".join([*self.lines, "-- on standard error --", *self.errors])

    def _read(self, stream: int, lines: list[str]) -> None:
        with open(stream, encoding="utf-8", errors="replace") as source:
            for text in source:
                with self._news:
                    lines.append(text.rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            self._open -= 1
            self._news.notify_all()


class Processes:
    """The processes of one test or module in one working directory; ``close`` ends those that still run."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **environment}
        self._commands: list[Command] = []

    def start(self, *command: str) -> Command:
        """Start ``python COMMAND``, such as ``start("-m", "fedws", "demo-nodes")`` or a script of the repository."""
        first, *rest = command
        if first.endswith(".py"):
            first = str(REPOSITORY / first)
        return self.execute(sys.executable, first, *rest)

    def execute(self, *command: str) -> Command:
        """Start any program."""
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None and process.stderr is not None

        def wait(seconds: float) -> int | None:
            try:
                return process.wait(seconds)
            except subprocess.TimeoutExpired:
                return None

        pipes = [os.dup(stream.fileno()) for stream in (process.stdout, process.stderr)]
        process.stdout.close()
        process.stderr.close()
        return self._kept(Command(process.pid, wait, *pipes))

    def fork(self, *argv: str, ignored: Sequence[signal.Signals] = ()) -> Command:
        """Run ``fedws ARGV`` in a process that has its imports done and ignores these signals."""
        return self._forked("", argv, ignored)

    def fork_script(self, script: str, *argv: str) -> Command:
        """Run a script of the repository in such a process."""
        return self._forked(script, argv)

    def _forked(self, script: str, argv: Sequence[str], ignored: Sequence[signal.Signals] = ()) -> Command:
        pipes = [FORKS.Pipe(duplex=False) for _ in range(2)]
        process = FORKS.Process(
            target=_command,
            args=(script, argv, ignored, self.folder, self.environment, *(writer for _, writer in pipes)),
            daemon=False,
        )
        process.start()
        ends = [os.dup(reader.fileno()) for reader, _ in pipes]
        for reader, writer in pipes:
            reader.close()
            writer.close()

        def wait(seconds: float) -> int | None:
            process.join(seconds)
            return process.exitcode

        assert process.pid is not None
        return self._kept(Command(process.pid, wait, *ends))

    def nodes(self, *flags: str, nodes: Sequence[str] = NODES) -> dict[str, str]:
        """Serve these nodes at free ports, each with the flags; return their addresses."""
        return serving({node: self.fork("worker", *identity(node), *flags) for node in nodes})

    def tiny(self) -> tuple[str, ...]:
        """Return the flags for data that need no time to load."""
        (self.folder / "tiny.py").write_text(TINY)
        return "--dataset", "tiny", "--plugin", "tiny.py"

    def close(self) -> None:
        """End the processes that still run."""
        for command in self._commands:
            command.kill()

    def _kept(self, command: Command) -> Command:
        self._commands.append(command)
        return command


def identity(node: str) -> list[str]:
    """Return the flags of a worker or the evaluator of that name, at a free port."""
    return ["--id", node, "--port", "0", *(["--evaluator"] if node == "testing" else [])]


def serving(commands: Mapping[str, Command]) -> dict[str, str]:
    """Wait until all of them serve; return their addresses."""
    return {node: command.line(rf"^{node} is serving at (wss?://\S+)$")[1] for node, command in commands.items()}


def dialling(urls: Mapping[str, str]) -> list[str]:
    """Return the coordinator's flags for these nodes, of which ``testing`` is the evaluator."""
    workers = [f"{node}={url}" for node, url in urls.items() if node != "testing"]
    return ["--workers", *workers, "--evaluator", f"testing={urls['testing']}" if "testing" in urls else "none"]


def ended_well(command: Command) -> Command:
    """Check that the command has ended with status 0 and no errors; return it."""
    assert command.end() == 0, command.everything
    assert command.errors == [], command.everything
    return command


def assert_one_line(command: Command, pattern: str, status: int | None = None) -> None:
    """Check that the command has failed with one line of error."""
    ended = command.end(30)
    assert ended != 0 if status is None else ended == status, command.everything
    assert len(command.errors) == 1, command.everything
    assert re.search(pattern, command.errors[0]), command.everything
    assert "Traceback" not in command.everything


def enter(folder: Path, environment: Mapping[str, str], out: Connection, err: Connection) -> None:
    """Enter the directory and the environment of the new process."""
    for number, pipe in ((1, out), (2, err)):
        os.dup2(pipe.fileno(), number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _command(
    script: str,
    argv: Sequence[str],
    ignored: Sequence[signal.Signals],
    folder: Path,
    environment: Mapping[str, str],
    out: Connection,
    err: Connection,
) -> None:
    """Turn the new process into ``fedws ARGV``, or a script."""
    enter(folder, environment, out, err)
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    if script:
        sys.argv = [script, *argv]
        runpy.run_path(str(REPOSITORY / script), run_name="__main__")
    sys.argv = ["fedws", *argv]
    from fedws.cli.main import console

    console()
