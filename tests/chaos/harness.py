"""Run a federation of real processes behind unreliable links, inject a plan of faults, and check the run.

Everything is bounded. A run that makes no progress while no fault lasts has hung. That is a failure, and its report has
the ends of all logs. The harness ends only processes that it has started, each by its id.
"""

import asyncio
import contextlib
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.chaos.checks import ROUND, check_run, measure_delays
from tests.chaos.faults import COORDINATOR, EVALUATOR, Fault
from tests.chaos.inject import FaultInjector
from tests.chaos.outcome import Outcome
from tests.chaos.programs import LOOK, Failed, Launch, Node, Program
from tests.helpers.processes import Command


@dataclass(frozen=True)
class Settings:
    """The settings of a run under faults."""

    rounds: int
    workers: tuple[str, ...]
    faults: Sequence[Fault]
    quorum: int = 0
    """Number of results that close a round; 0 for all."""
    compare: bool = True
    """True if the weights must equal those of a run without faults, which holds with a full quorum."""
    silence: float = 2.5
    node_flags: Sequence[str] = ()
    run_flags: Sequence[str] = ()
    rate: float = float("inf")
    """Rate of a link without a fault, in bytes per second and direction."""
    patience: float = 90.0
    """Seconds without a new round, a line or a fault after which a run has hung."""
    bound: float = 1800.0
    """Timeout of the whole run in seconds."""


class Chaos:
    """One run under faults."""

    def __init__(self, folder: Path, launch: Launch, settings: Settings, say: Callable[[str], object]) -> None:
        self.settings = settings
        self.outcome = Outcome()
        self.folder = folder
        flags = ["--peer-timeout", str(settings.silence), *settings.node_flags]
        self.nodes = {name: Node(name, launch, flags, settings.patience) for name in (*settings.workers, EVALUATOR)}
        self.coordinator = Program(COORDINATOR, launch)
        self.reference = Program("reference", launch)
        self.round = 0
        """Newest round that has started."""
        self._say = say
        self._progress = self._began = time.monotonic()
        self._faults = FaultInjector(
            folder / "run", self.nodes, self.coordinator, self.outcome, settings.rate, self._begins
        )

    async def run(self) -> Outcome:
        """Run and check everything, and return the outcome; raise Failed if there is a problem."""
        try:
            async with asyncio.timeout(self.settings.bound):
                await self._run()
            check_run(self.outcome, self.folder, self.settings.rounds, self.settings.compare, self._programs())
        except TimeoutError:
            raise Failed(f"not over after {self.settings.bound:g} s\n{self.tails()}") from None
        except Failed as failed:
            raise Failed(f"{failed}\n{self.tails()}") from None
        finally:
            measure_delays(self.outcome, self.coordinator)
            self._keep_logs()
            for program in self._programs():
                for command in program.incarnations:
                    program.send(signal.SIGKILL, command)
        if self.outcome.problems:
            raise Failed("\n".join([*self.outcome.problems, self.tails()]))
        return self.outcome

    async def _run(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            await asyncio.gather(*(node.serve() for node in self.nodes.values()))
            for node in self.nodes.values():
                node.proxy.rate = self.settings.rate
                await stack.enter_async_context(node.proxy)
            if self.settings.compare:
                began = time.monotonic()
                direct = {name: f"ws://127.0.0.1:{node.proxy.port}" for name, node in self.nodes.items()}
                self.reference.start("run", *self._run_flags(direct), "--run-dir", "reference")
                await self._ends(self.reference)
                self.outcome.fault_free = time.monotonic() - began
            stack.push_async_callback(self._faults.end)
            began = time.monotonic()
            proxies = {name: node.proxy.url for name, node in self.nodes.items()}
            self.coordinator.start("run", *self._run_flags(proxies), "--run-dir", "run")
            await self._drive()
            self.outcome.last = time.time()
            self.outcome.seconds = time.monotonic() - began
            await self._faults.end()
            await self._end_nodes()

    def _run_flags(self, urls: dict[str, str]) -> list[str]:
        settings = self.settings
        workers = [f"{name}={url}" for name, url in urls.items() if name != EVALUATOR]
        flags = [
            "--workers",
            *workers,
            "--evaluator",
            f"{EVALUATOR}={urls[EVALUATOR]}",
            "--wait-for-workers",
            "forever",
        ]
        flags += ["--peer-timeout", str(settings.silence), "--rounds", str(settings.rounds)]
        return [*flags, *(["--min-results", str(settings.quorum)] if settings.quorum else []), *settings.run_flags]

    async def _ends(self, program: Program) -> None:
        while program.status is None:
            await asyncio.sleep(LOOK)
        if program.status != 0:
            raise Failed(f"{program.name} ended with status {program.status}")

    async def _drive(self) -> None:
        """Follow the coordinator until it ends, and begin each fault at its time."""
        waiting, seen = list(self.settings.faults), Counter[Command]()
        self._progress = time.monotonic()
        while True:
            status, command = self.coordinator.status, self.coordinator.command
            for text in command.lines[seen[command] :]:
                seen[command] += 1
                if "| Waiting for " not in text:
                    self._progress = time.monotonic()
                if found := ROUND.search(text):
                    self.round = max(self.round, int(found[1]))
            while waiting and waiting[0].round <= self.round:
                self._faults.begin(waiting.pop(0))
            self._faults.check()
            if status is not None and command not in self.coordinator.killed and not command._open:
                break
            if self._faults.under_way:
                self._progress = time.monotonic()
            if time.monotonic() - self._progress > self.settings.patience:
                raise Failed(f"no progress for {self.settings.patience:g} s, in round {self.round}")
            for node in self.nodes.values():
                if node.status is not None and not node.starting and node.command not in node.killed:
                    raise Failed(f"{node.name} ended by itself with status {node.status}")
            await asyncio.sleep(LOOK)
        if status != 0:
            raise Failed(f"the coordinator ended with status {status}")

    def _begins(self, fault: Fault) -> None:
        self._say(f"{time.monotonic() - self._began:7.2f} s  round {self.round}: {fault}")

    async def _end_nodes(self) -> None:
        """Check that every node ends after a signal, and that no process is left."""
        family = []
        for program in self._programs():
            with contextlib.suppress(psutil.NoSuchProcess):
                if program.status is None:
                    family += psutil.Process(program.command.pid).children(recursive=True)
        for node in self.nodes.values():
            node.send(signal.SIGKILL if node.starting else signal.SIGTERM)
        until = time.monotonic() + self.settings.patience
        while running := [node for node in self.nodes.values() if node.status is None or node.command._open]:
            if time.monotonic() > until:
                raise Failed(f"{', '.join(node.name for node in running)} did not end after a signal")
            await asyncio.sleep(LOOK)
        left = [process for process in family if process.is_running()]
        if left:
            raise Failed(f"processes are left: {left}")

    def _programs(self) -> list[Program]:
        return [program for program in (*self.nodes.values(), self.reference, self.coordinator) if program.incarnations]

    def tails(self, lines: int = 25) -> str:
        """Return the ends of all logs."""
        return "\n".join(program.tail(lines) for program in self._programs())

    def _keep_logs(self) -> None:
        folder = self.folder / "printed"
        folder.mkdir(exist_ok=True)
        for program in self._programs():
            for number, command in enumerate(program.incarnations, 1):
                (folder / f"{program.name}-{number}.txt").write_text(command.everything)
