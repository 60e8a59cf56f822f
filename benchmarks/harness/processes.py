"""Processes of a benchmark, which read their output and always end them, each by its pid."""

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
_UNSET = {"OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTHONDONTWRITEBYTECODE"}
_STATE = tempfile.TemporaryDirectory(prefix="fedws-bench-state-")  # removed when this process ends
ENVIRONMENT = {
    # The shell must not change the number of threads, which each side sets itself, or the start of Python.
    **{name: value for name, value in os.environ.items() if name not in _UNSET},
    "PYTHONUNBUFFERED": "1",
    # Links are authenticated like a user's, but not with the user's key, and not recorded in the user's audit logs.
    "FEDWS_KEY": secrets.token_hex(32),
    "XDG_STATE_HOME": _STATE.name,
}
GRACE = 5.0
"""Time in seconds between the signal that ends a process and the one that kills it."""


class Child:
    """One process, and the lines of its output with their times of arrival."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self.lines: list[tuple[float, str]] = []
        self.peak = 0
        """Peak memory in bytes (VmHWM), read with every line and before the end of the process."""
        self._news = threading.Condition()
        self._ended = 0.0
        self.started = time.monotonic()
        # It has its own process group, so that Ctrl+C reaches only the benchmark, which ends its processes in order.
        # It stays in the session, because Linux shares the cores evenly between sessions, even if niceness differs.
        self.process = subprocess.Popen(
            list(command),
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            process_group=0,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                now = time.monotonic()
                self.look()
                with self._news:
                    self.lines.append((now, line.rstrip("\n")))
                    self._news.notify_all()
        self._ended = time.monotonic()
        with self._news:
            self._news.notify_all()

    def look(self) -> None:
        """Read the peak memory if the process is still running."""
        with contextlib.suppress(OSError):
            found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
            self.peak = int(found[1]) * 1024 if found else self.peak

    def wait_for(self, pattern: str, timeout: float) -> tuple[float, re.Match[str]]:
        """Return the first line that matches ``pattern``, and its time of arrival.

        Raise RuntimeError if no line matches within ``timeout`` seconds.
        """
        seen = 0
        until = time.monotonic() + timeout
        while True:
            with self._news:
                alive = self._reader.is_alive()
                fresh = self.lines[seen:]
                if not fresh and alive and time.monotonic() < until:
                    self._news.wait(0.1)
                    continue
            seen += len(fresh)
            for at, line in fresh:
                if found := re.search(pattern, line):
                    return at, found
            if not fresh:
                raise RuntimeError(self.describe_failure(f"printed no line that matches {pattern!r} in {timeout:g} s"))

    def matches(self, pattern: str) -> list[tuple[float, re.Match[str]]]:
        """Return every line so far that matches ``pattern``, and its time of arrival."""
        with self._news:
            return [(at, found) for at, line in self.lines if (found := re.search(pattern, line))]

    def finish(self, timeout: float) -> float:
        """Wait until the process ends, and return the time of its end.

        Raise RuntimeError if it does not end within ``timeout`` seconds, or fails.
        """
        self._reader.join(timeout)  # gives the exact time of the end; Popen.wait polls every 50 ms
        try:
            code = self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            raise RuntimeError(self.describe_failure(f"did not end in {timeout:g} s")) from None
        if code:
            raise RuntimeError(self.describe_failure(f"ended with code {code}"))
        return self._ended

    def stop(self) -> None:
        """End the process and all its descendants by their pids."""
        self.look()
        family: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        if self.process.poll() is None:
            self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE)
        for process in family:  # psutil checks that the pid still belongs to the same process
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(GRACE)

    def describe_failure(self, what: str) -> str:
        """Return the text of an error: ``what`` failed, and the last lines of the output."""
        last_lines = "\n".join(f"    {line}" for _, line in self.lines[-15:])
        return f"{self.name} {what}; its last lines:\n{last_lines}"


class Crew(contextlib.ExitStack):
    """A group of processes that end with the block in which they were started.

    They end in reverse order, also if an error ends the block.
    """

    def start(self, name: str, *arguments: str) -> Child:
        """Start this Python interpreter with ``arguments`` in the root directory of the repository."""
        return self.run(name, sys.executable, *arguments)

    def run(self, name: str, *command: str) -> Child:
        """Start any program in the root directory of the repository."""
        with _signals_delayed():
            child = Child(name, command)
            self.callback(self._stop, child)
        return child

    def _stop(self, child: Child) -> None:
        with _signals_delayed():
            child.stop()


@contextlib.contextmanager
def _signals_delayed() -> Iterator[None]:
    """Delay Ctrl+C and SIGTERM until the end of the block, so that every started process is known."""
    came: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda caught, _: came.append(caught)) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for caught in came:
            signal.raise_signal(caught)
