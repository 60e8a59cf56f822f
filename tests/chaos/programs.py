"""The processes of a run under faults; each program may be started several times."""

import asyncio
import re
import signal
import time
from collections.abc import Callable, Sequence

from tests.chaos.faults import EVALUATOR
from tests.chaos.proxy import Proxy
from tests.helpers.processes import Command

LOOK = 0.01
"""Seconds between two reads of the processes' output; no check depends on what happens in between."""

Launch = Callable[..., Command]
"""Function that starts a command of fedws: ``launch("run", "--resume", "run")``."""


class Failed(Exception):
    """A failure: the run broke a guarantee."""


class Killed(Exception):
    """The event that a process was killed while a task waited for it."""


class Program:
    """One command of fedws, with a process for each start."""

    def __init__(self, name: str, launch: Launch) -> None:
        self.name = name
        self.incarnations: list[Command] = []
        self.began: list[float] = []
        """Time of each start, by the clock of log lines."""
        self.killed: set[Command] = set()
        self.stopped = False
        self._launch = launch

    @property
    def command(self) -> Command:
        return self.incarnations[-1]

    @property
    def status(self) -> int | None:
        """Exit status of the newest process; None while it runs."""
        return self.command._wait(0)

    @property
    def down(self) -> bool:
        """True if the newest process has ended or was killed."""
        return self.status is not None or self.command in self.killed

    def start(self, *argv: str) -> Command:
        self.began.append(time.time())
        self.incarnations.append(self._launch(*argv))
        return self.command

    def send(self, number: signal.Signals, to: Command | None = None) -> bool:
        """Send a signal unless the process has ended; return whether it was sent."""
        to = to or self.command
        if to._wait(0) is not None:
            return False
        if number == signal.SIGKILL:
            self.killed.add(to)
        to.send(number)
        return True

    async def line(self, pattern: str, seconds: float) -> re.Match[str]:
        """Wait for a line of the newest process that matches ``pattern``.

        Raise Failed if the process ends without it, or Killed if it was killed.
        """
        command, seen, until = self.command, 0, time.monotonic() + seconds
        while True:
            over = command._open == 0
            for text in command.lines[seen:]:
                if found := re.search(pattern, text):
                    return found
                seen += 1
            if over:
                raise Killed if command in self.killed else Failed(f"{self.name} ended without a line {pattern!r}")
            if time.monotonic() > until:
                raise Failed(f"{self.name} has no line {pattern!r} after {seconds:g} s")
            await asyncio.sleep(LOOK)

    def tail(self, lines: int) -> str:
        """Return the last lines of every process."""
        parts = []
        for number, command in enumerate(self.incarnations, 1):
            how = "killed" if command in self.killed else f"status {command._wait(0)}"
            told = [*command.lines[-lines:], *(f"(error) {line}" for line in command.errors[-lines:])]
            parts.append("\n".join([f"--- {self.name}, start {number}, pid {command.pid}, {how}", *told]))
        return "\n".join(parts[-3:])


class Node(Program):
    """A node behind its proxy."""

    def __init__(self, name: str, launch: Launch, flags: Sequence[str], patience: float) -> None:
        super().__init__(name, launch)
        self._patience = patience
        self.proxy = Proxy(0)
        self.held = False
        """True while a fault holds the node's link."""
        self.starting = False
        self._flags = flags

    async def serve(self) -> None:
        """Start the node, at its former port if it has one that is still free."""
        testing = ["--evaluator"] if self.name == EVALUATOR else []
        self.starting = True
        for port in dict.fromkeys((self.proxy.port, 0)):
            self.start("worker", "--id", self.name, "--port", str(port), *testing, *self._flags)
            try:
                found = await self.line(rf"^{self.name} is serving at ws://.*:(\d+)$", self._patience)
            except Failed:
                if not port or not any("is already in use" in line for line in self.command.errors):
                    raise
                self.command.errors.clear()  # an outgoing connection of another process may use the port now
                self.killed.add(self.command)
            else:
                self.proxy.port = int(found[1])
                self.starting = False
                return
