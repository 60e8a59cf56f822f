"""Processes of a benchmark: started, listened to, and always ended, each by its pid."""

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
_STATE = tempfile.TemporaryDirectory(prefix="fedws-bench-state-")  # gone with this process
ENVIRONMENT = {
    # No setting of the shell may change how many threads a side gets (each sets them itself) or how it starts.
    **{name: value for name, value in os.environ.items() if name not in _UNSET},
    "PYTHONUNBUFFERED": "1",
    # Links are authenticated, as a user's are, but neither with the user's key nor into the user's audit logs.
    "FEDWS_KEY": secrets.token_hex(32),
    "XDG_STATE_HOME": _STATE.name,
}
GRACE = 5.0
"""Seconds between asking a process to end and ending it."""


class Child:
    """One process and the lines it has said, each with the moment it arrived here."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self.lines: list[tuple[float, str]] = []
        self.peak = 0
        """Peak memory in bytes (VmHWM) as last seen: looked at with every line, and before the end."""
        self._news = threading.Condition()
        self._ended = 0.0
        self.started = time.monotonic()
        # A group of its own: Ctrl+C reaches the benchmark, which then ends its processes in order. The same session,
        # since Linux shares the processors evenly between sessions, whatever the priorities of their processes.
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
        with self.process.stdout as said:
            for line in said:
                now = time.monotonic()
                self.look()
                with self._news:
                    self.lines.append((now, line.rstrip("\n")))
                    self._news.notify_all()
        self._ended = time.monotonic()
        with self._news:
            self._news.notify_all()

    def look(self) -> None:
        """Take note of the peak memory, while the process lives."""
        with contextlib.suppress(OSError):
            found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
            self.peak = int(found[1]) * 1024 if found else self.peak

    def wait_for(self, pattern: str, timeout: float) -> tuple[float, re.Match[str]]:
        """The first line that matches, and when it came. Raises RuntimeError when none does in time."""
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
                raise RuntimeError(self.complaint(f"said nothing like {pattern!r} in {timeout:g} s"))

    def matches(self, pattern: str) -> list[tuple[float, re.Match[str]]]:
        """Every line that matches so far, and when it came."""
        with self._news:
            return [(at, found) for at, line in self.lines if (found := re.search(pattern, line))]

    def finish(self, timeout: float) -> float:
        """Wait for a good end, and say when it was. Raises RuntimeError when there is none in time."""
        self._reader.join(timeout)  # the end of its output, to the moment; Popen.wait looks every 50 ms only
        try:
            code = self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            raise RuntimeError(self.complaint(f"did not end in {timeout:g} s")) from None
        if code:
            raise RuntimeError(self.complaint(f"ended with code {code}"))
        return self._ended

    def stop(self) -> None:
        """End the process and everything it started, by their pids."""
        self.look()
        family: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        if self.process.poll() is None:
            self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE)
        for process in family:  # psutil makes sure that a pid still is the process it was
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(GRACE)

    def complaint(self, what: str) -> str:
        """What went wrong, with the last lines that the process said."""
        said = "\n".join(f"    {line}" for _, line in self.lines[-15:])
        return f"{self.name} {what}; its last lines:\n{said}"


class Crew(contextlib.ExitStack):
    """Processes that end with the block they were started in, the last first, whatever ends the block."""

    def start(self, name: str, *arguments: str) -> Child:
        """Start this Python with ``arguments``, in the repository's root."""
        return self.run(name, sys.executable, *arguments)

    def run(self, name: str, *command: str) -> Child:
        """Start any program there."""
        with _in_one_piece():
            child = Child(name, command)
            self.callback(self._stop, child)
        return child

    def _stop(self, child: Child) -> None:
        with _in_one_piece():
            child.stop()


@contextlib.contextmanager
def _in_one_piece() -> Iterator[None]:
    """Let Ctrl+C and SIGTERM wait until the block is done, so that no process is started and forgotten."""
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
