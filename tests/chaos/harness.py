"""Runs a federation of real processes behind misbehaving links, does to it what a plan of faults says, and judges.

Everything is bounded: a run that makes no progress while nothing is being done to it has hung, and that is a failure
with the ends of all logs. Only processes started here are ended, each by its id.
"""

import asyncio
import contextlib
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from tests.chaos.faults import COORDINATOR, EVALUATOR, Fault
from tests.chaos.judgement import ROUND, lost_rounds, record_problems, same
from tests.chaos.outcome import Done, Outcome
from tests.chaos.programs import LOOK, Failed, Killed, Launch, Node, Program
from tests.processes import Command
from tests.support import recorded

AMID = 0.001
"""Seconds between two looks whether a file is there."""
STAMPED = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) \| (.*)")


@dataclass(frozen=True)
class Settings:
    """What is run."""

    rounds: int
    workers: tuple[str, ...]
    faults: Sequence[Fault]
    quorum: int = 0
    """0: all."""
    compare: bool = True
    """Whether the weights must be those of a run without faults: so it is with a full quorum."""
    silence: float = 2.5
    node_flags: Sequence[str] = ()
    run_flags: Sequence[str] = ()
    rate: float = float("inf")
    """Bytes a second that a link carries, each way, when nothing is wrong with it."""
    patience: float = 90.0
    """Seconds without a new round, a line or a fault after which it hangs."""
    bound: float = 1800.0
    """Seconds for everything."""


class Chaos:
    """One run under faults."""

    def __init__(self, folder: Path, launch: Launch, settings: Settings, say: Callable[[str], object]) -> None:
        self.settings = settings
        self.outcome = Outcome()
        self.folder = folder
        flags = ["--silence", str(settings.silence), *settings.node_flags]
        self.nodes = {name: Node(name, launch, flags, settings.patience) for name in (*settings.workers, EVALUATOR)}
        self.coordinator = Program(COORDINATOR, launch)
        self.reference = Program("reference", launch)
        self.round = 0
        """The last round that has begun."""
        self._say = say
        self._progress = self._began = time.monotonic()
        self._under_way = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> Outcome:
        """Everything. Raises Failed."""
        try:
            async with asyncio.timeout(self.settings.bound):
                await self._run()
            self._judge()
        except TimeoutError:
            raise Failed(f"not over after {self.settings.bound:g} s\n{self.tails()}") from None
        except Failed as failed:
            raise Failed(f"{failed}\n{self.tails()}") from None
        finally:
            self._measure()
            self._keep_logs()
            for program in self._programs():
                for command in program.incarnations:
                    program.send(signal.SIGKILL, command)
        if self.outcome.problems:
            raise Failed("\n".join([*self.outcome.problems, self.tails()]))
        return self.outcome

    # ------------------------------------------------------------------ the run

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
            stack.push_async_callback(self._end_faults)
            began = time.monotonic()
            proxies = {name: node.proxy.url for name, node in self.nodes.items()}
            self.coordinator.start("run", *self._run_flags(proxies), "--run-dir", "run")
            await self._drive()
            self.outcome.last = time.time()
            self.outcome.seconds = time.monotonic() - began
            await self._end_faults()
            await self._end_nodes()

    def _run_flags(self, urls: dict[str, str]) -> list[str]:
        settings = self.settings
        workers = [f"{name}={url}" for name, url in urls.items() if name != EVALUATOR]
        flags = ["--workers", *workers, "--evaluator", f"{EVALUATOR}={urls[EVALUATOR]}", "--wait", "forever"]
        flags += ["--silence", str(settings.silence), "--training-rounds", str(settings.rounds)]
        return [*flags, *(["--quorum", str(settings.quorum)] if settings.quorum else []), *settings.run_flags]

    async def _ends(self, program: Program) -> None:
        while program.status is None:
            await asyncio.sleep(LOOK)
        if program.status != 0:
            raise Failed(f"{program.name} ended with status {program.status}")

    async def _drive(self) -> None:
        """Follow the coordinator to its end; begin each fault when its time has come."""
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
                self._tasks.append(asyncio.create_task(self._inflict(waiting.pop(0))))
            for task in self._tasks:
                if task.done():
                    task.result()
            if status is not None and command not in self.coordinator.killed and not command._open:
                break
            if self._under_way:
                self._progress = time.monotonic()
            if time.monotonic() - self._progress > self.settings.patience:
                raise Failed(f"hangs: nothing has happened for {self.settings.patience:g} s, in round {self.round}")
            for node in self.nodes.values():
                if node.status is not None and not node.starting and node.command not in node.killed:
                    raise Failed(f"{node.name} ended by itself with status {node.status}")
            await asyncio.sleep(LOOK)
        if status != 0:
            raise Failed(f"the coordinator ended with status {status}")

    # ------------------------------------------------------------------ faults

    async def _inflict(self, fault: Fault) -> None:
        await asyncio.sleep(fault.after)
        inflict = {
            "kill": self._kill,
            "lose": self._kill,
            "stop": self._stop,
            "hold": self._hold,
            "throttle": self._throttle,
        }
        await inflict.get(fault.kind.what, self._cut)(fault)

    @contextlib.asynccontextmanager
    async def _lasting(self, fault: Fault) -> AsyncIterator[None]:
        """A fault that was injected just now; while it lasts nobody is impatient."""
        at = time.time()
        self.outcome.injected.append(Done(fault, at))
        self._say(f"{time.monotonic() - self._began:7.2f} s  round {self.round}: {fault}")
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    def _program(self, fault: Fault) -> Program:
        return self.coordinator if fault.target == COORDINATOR else self.nodes[fault.target]

    async def _kill(self, fault: Fault) -> None:
        program = self._program(fault)
        while fault.kind.amid and not self._there(fault.kind.amid):
            await asyncio.sleep(AMID)
        if program.down:
            return
        for node in self.nodes.values():
            if fault.kind.what == "lose" and fault.target in (node.name, COORDINATOR):
                node.proxy.lose()
        program.send(signal.SIGKILL)
        async with self._lasting(fault):
            await self._again(program, fault.seconds)
            if fault.again is None:
                return
            await asyncio.sleep(fault.again)
            if not program.down:
                program.send(signal.SIGKILL)
                await self._again(program, fault.seconds)

    def _there(self, pattern: str) -> bool:
        with contextlib.suppress(OSError):  # a directory has gone meanwhile
            return any((self.folder / "run").glob(pattern))
        return False

    async def _again(self, program: Program, pause: float) -> None:
        """Start again, after a pause, what was killed."""
        self.outcome.kills[program.name] += 1
        command = program.command
        while (status := command._wait(0)) is None:
            await asyncio.sleep(LOOK)
        if status != -signal.SIGKILL:  # it was faster, and has ended by itself: others judge how
            program.killed.discard(command)
            return
        await asyncio.sleep(pause)
        if isinstance(program, Node):
            with contextlib.suppress(Killed):
                await program.serve()
        else:
            program.start("run", "--resume", "run")

    async def _stop(self, fault: Fault) -> None:
        program = self._program(fault)
        command = program.command
        if program.stopped or not program.send(signal.SIGSTOP):
            return
        program.stopped = True
        async with self._lasting(fault):
            await asyncio.sleep(fault.seconds)
            program.stopped = False
            program.send(signal.SIGCONT, command)

    async def _hold(self, fault: Fault) -> None:
        node = self.nodes[fault.target]
        if node.held:
            return
        async with self._lasting(fault):
            node.held = True
            node.proxy.hold(fault.ways)
            await asyncio.sleep(fault.seconds)
            node.proxy.release()
            node.held = False

    async def _throttle(self, fault: Fault) -> None:
        node = self.nodes[fault.target]
        if node.proxy.rate < self.settings.rate:
            return
        async with self._lasting(fault):
            node.proxy.rate = min(fault.rate, self.settings.rate)
            await asyncio.sleep(fault.seconds)
            node.proxy.rate = self.settings.rate

    async def _cut(self, fault: Fault) -> None:
        proxy, how = self.nodes[fault.target].proxy, fault.kind.what
        assert how in ("rst", "fin")
        if fault.bytes:
            if not await proxy.cut_after(fault.bytes, how):
                return
        elif not proxy.cut(how):
            return
        async with self._lasting(fault):
            pass

    async def _end_faults(self) -> None:
        """Whatever still goes wrong ends now."""
        for task in self._tasks:
            if not task.done():
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for node in self.nodes.values():
            node.proxy.release()
            node.proxy.rate = self.settings.rate
        for program in self._programs():
            program.send(signal.SIGCONT)

    async def _end_nodes(self) -> None:
        """Every node ends when asked to, and leaves nothing behind."""
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
                raise Failed(f"{', '.join(node.name for node in running)} did not end when told to")
            await asyncio.sleep(LOOK)
        left = [process for process in family if process.is_running()]
        if left:
            raise Failed(f"processes are left: {left}")

    def _programs(self) -> list[Program]:
        return [program for program in (*self.nodes.values(), self.reference, self.coordinator) if program.incarnations]

    # ------------------------------------------------------------------ the judgement

    def _judge(self) -> None:
        outcome, run, rounds = self.outcome, self.folder / "run", self.settings.rounds
        outcome.problems += record_problems(run, rounds)
        outcome.problems += lost_rounds([command.lines for command in self.coordinator.incarnations])
        told = recorded(run)
        for program in self._programs():
            for command in program.incarnations:
                if command not in program.killed and command._wait(0) not in (0, None):
                    outcome.problems.append(f"{program.name} ended with status {command._wait(0)}")
                outcome.problems += [f"{program.name}: {line}" for line in command.errors]
        scores = [record for record in told if record["kind"] == "score"]
        federated = [score for score in scores if score["model"] == "federated"]
        outcome.accuracy = federated[-1]["accuracy"] if federated else None
        outcome.scores = len(scores)
        outcome.partial = sum(bool(record.get("missing")) for record in told)
        if self.settings.compare:
            self._compare(scores)

    def _compare(self, scores: Sequence[dict[str, Any]]) -> None:
        """The weights are those of the run without faults, and so is every score that there is."""
        reference, run = self.folder / "reference", self.folder / "run"
        self.outcome.equal = same(reference / "model.safetensors", run / "model.safetensors")
        if not self.outcome.equal:
            self.outcome.problems.append("the weights are not those of the run without faults")
        wanted = {
            (record["round"], record["model"]): (record["correct"], record["histogram"])
            for record in recorded(reference, "score")
        }
        self.outcome.due = len(wanted)
        for score in scores:
            place = score["round"], score["model"]
            if wanted.get(place) != (score["correct"], score["histogram"]):
                self.outcome.problems.append(f"the score of {place} is not that of the run without faults")

    def _measure(self) -> None:
        lines = [_stamped(command) for command in self.coordinator.incarnations]
        rounds = [at for told in lines for at, text in told if ROUND.search(text)]
        self.outcome.last = max([self.outcome.last, *rounds])
        for began, told in list(zip(self.coordinator.began, lines, strict=True))[1:]:
            first = next((at for at, text in told if ROUND.search(text)), None)
            if first is not None:
                self.outcome.resumed.append(first - began)
        for number, (fault, at) in enumerate((done.fault, done.at) for done in self.outcome.injected):
            if fault.kind.whom != "worker" or not (fault.kind.what in ("kill", "lose") or fault.kind.long):
                continue
            # Until the next thing happens to it or to the coordinator, which may be what the line tells of.
            later = [
                done.at
                for done in self.outcome.injected[number + 1 :]
                if done.fault.target in (fault.target, COORDINATOR)
            ]
            until = min(later, default=float("inf"))
            says = re.compile(rf"^{fault.target} has left")
            found = [t for told in lines for t, text in told if at - 0.001 <= t < until and says.search(text)]
            if found:
                self.outcome.detected.setdefault(str(fault.kind), []).append(found[0] - at)

    def tails(self, lines: int = 25) -> str:
        """The ends of all logs."""
        return "\n".join(program.tail(lines) for program in self._programs())

    def _keep_logs(self) -> None:
        folder = self.folder / "printed"
        folder.mkdir(exist_ok=True)
        for program in self._programs():
            for number, command in enumerate(program.incarnations, 1):
                (folder / f"{program.name}-{number}.txt").write_text(command.everything)


def _stamped(command: Command) -> list[tuple[float, str]]:
    found = (STAMPED.fullmatch(line) for line in command.lines)
    return [(datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S,%f").timestamp(), match[2]) for match in found if match]
