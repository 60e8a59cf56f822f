"""Runs a federation of real processes behind misbehaving links, does to it what a plan of faults says, and judges.

Everything is bounded: a run that makes no progress while nothing is being done to it has hung, and that is a failure
with the ends of all logs. Only processes started here are ended, each by its id.
"""

import asyncio
import contextlib
import json
import re
import signal
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import safetensors.torch
import torch

from tests.chaos.faults import COORDINATOR, EVALUATOR, Fault
from tests.chaos.proxy import Proxy
from tests.processes import Command

LOOK = 0.01
"""Seconds between two looks at what the processes print."""
AMID = 0.001
"""Seconds between two looks whether a file is there."""
STAMPED = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) \| (.*)")
ROUND = re.compile(r"(?:Training round|Model version) (\d+)/")
GOES_ON = re.compile(r"Going on after round (\d+) of")
LEFT_BEHIND = ("checkpoints", "awaiting_scores", ".lock", "*.part")
"""What is in no directory of a run that has ended."""

Launch = Callable[..., Command]
"""``launch("run", "--resume", "run")`` starts that command of fedws."""


class Failed(Exception):
    """The run broke a promise."""


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


class Program:
    """One command of fedws, as often as it is started."""

    def __init__(self, name: str, launch: Launch) -> None:
        self.name = name
        self.incarnations: list[Command] = []
        self.began: list[float] = []
        """When each was started, by the clock of log lines."""
        self.killed: set[Command] = set()
        self.stopped = False
        self._launch = launch

    @property
    def command(self) -> Command:
        return self.incarnations[-1]

    @property
    def status(self) -> int | None:
        """Of the newest incarnation; None while it runs."""
        return self.command._wait(0)

    @property
    def down(self) -> bool:
        """Whether it has ended, or is about to because it was killed."""
        return self.status is not None or self.command in self.killed

    def start(self, *argv: str) -> Command:
        self.began.append(time.time())
        self.incarnations.append(self._launch(*argv))
        return self.command

    def send(self, number: signal.Signals, to: Command | None = None) -> bool:
        """Send a signal, unless it has ended; gives whether it was sent."""
        to = to or self.command
        if to._wait(0) is not None:
            return False
        if number == signal.SIGKILL:
            self.killed.add(to)
        to.send(number)
        return True

    async def line(self, pattern: str, seconds: float) -> re.Match[str]:
        """Wait for a line of the newest incarnation. Raises Failed when it ends without, or Killed."""
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
        """The last lines of every incarnation."""
        parts = []
        for number, command in enumerate(self.incarnations, 1):
            how = "killed" if command in self.killed else f"status {command._wait(0)}"
            told = [*command.lines[-lines:], *(f"(error) {line}" for line in command.errors[-lines:])]
            parts.append("\n".join([f"--- {self.name}, start {number}, pid {command.pid}, {how}", *told]))
        return "\n".join(parts[-3:])


class Killed(Exception):
    """A process was killed while it was awaited."""


class Node(Program):
    """A node behind its proxy."""

    def __init__(self, name: str, launch: Launch, flags: Sequence[str], patience: float) -> None:
        super().__init__(name, launch)
        self._patience = patience
        self.proxy = Proxy(0)
        self.held = False
        """Whether a fault holds its link just now."""
        self.starting = False
        self._flags = flags

    async def serve(self) -> None:
        """Start it, at its own port if it has one already and nobody has taken that meanwhile."""
        testing = ["--testing"] if self.name == EVALUATOR else []
        self.starting = True
        for port in dict.fromkeys((self.proxy.port, 0)):
            self.start("worker", "--id", self.name, "--port", str(port), *testing, *self._flags)
            try:
                found = await self.line(rf"^{self.name} is serving at ws://.*:(\d+)$", self._patience)
            except Failed:
                if not port or not any("is in use" in line for line in self.command.errors):
                    raise
                self.command.errors.clear()  # it may be the port of somebody's outgoing connection now
                self.killed.add(self.command)
            else:
                self.proxy.port = int(found[1])
                self.starting = False
                return


@dataclass(frozen=True)
class Done:
    """A fault that was injected."""

    fault: Fault
    at: float
    """By the clock of log lines."""


@dataclass
class Outcome:
    """What came of a run under faults."""

    injected: list[Done] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    fault_free: float | None = None
    """Seconds of the run without faults; None where there was none."""
    accuracy: float | None = None
    equal: bool | None = None
    """Whether the weights are those of the run without faults; None where nobody asks."""
    scores: int = 0
    """Models scored"""
    due: int = 0
    """of so many."""
    partial: int = 0
    """Rounds that closed without a worker."""
    detected: dict[str, list[float]] = field(default_factory=dict)
    """Seconds from a fault to the log line that says that the worker has left, by kind."""
    resumed: list[float] = field(default_factory=list)
    """Seconds from the start of ``--resume`` to its first round's line."""
    last: float = 0.0
    """When the last round began or the run was over, by the clock of log lines."""
    problems: list[str] = field(default_factory=list)
    """Promises that were broken."""


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
        records = _records(run)
        for program in self._programs():
            for command in program.incarnations:
                if command not in program.killed and command._wait(0) not in (0, None):
                    outcome.problems.append(f"{program.name} ended with status {command._wait(0)}")
                outcome.problems += [f"{program.name}: {line}" for line in command.errors]
        scores = [record for record in records if record["kind"] == "score"]
        federated = [score for score in scores if score["model"] == "federated"]
        outcome.accuracy = federated[-1]["accuracy"] if federated else None
        outcome.scores = len(scores)
        outcome.partial = sum(bool(record.get("missing")) for record in records)
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
            for record in _records(reference)
            if record["kind"] == "score"
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


def report(chaos: Chaos) -> str:
    """The outcome, for a person."""
    outcome, silence = chaos.outcome, chaos.settings.silence
    injected = Counter(str(done.fault.kind) for done in outcome.injected)
    survived = Counter(str(done.fault.kind) for done in outcome.injected if done.at < outcome.last)
    kills = ", ".join(f"{name} {count}" for name, count in sorted(outcome.kills.items())) or "none"
    rows = [
        f"{len(outcome.injected)} of {len(chaos.settings.faults)} faults injected; the others had nothing to hit",
        *(f"  {count:3} {kind}, {survived[kind]} survived" for kind, count in sorted(injected.items())),
        f"killed and started again: {kills}",
    ]
    for kind, seconds in sorted(outcome.detected.items()):
        rows.append(f"from '{kind}' to the line that it has left: {_spread(seconds)}; silence {silence:g} s")
    rows += ["  (lines of a run wait for the scores of the round before them)"] if outcome.detected else []
    rows.append(f"from --resume to its first round: {_spread(outcome.resumed)}")
    free = "" if outcome.fault_free is None else f", {outcome.fault_free:.1f} s without faults"
    due = f" of {outcome.due}" if outcome.due else ""
    scored = f"{outcome.scores}{due} models scored"
    rows.append(f"{outcome.seconds:.1f} s{free}; {scored}; {outcome.partial} rounds without some worker")
    accuracy = "none" if outcome.accuracy is None else f"{100 * outcome.accuracy:.2f} %"
    equal = {None: "", True: "; weights equal, bit for bit", False: "; weights DIFFER"}[outcome.equal]
    rows.append(f"accuracy {accuracy}{equal}")
    return "\n".join(rows)


def record_problems(run: Path, rounds: int) -> list[str]:
    """What is wrong with the record of a run that has come to its end."""
    problems = []
    records = _records(run)
    numbers = [record["round"] for record in records if record["kind"] == "round"]
    if numbers != list(range(1, rounds + 1)):
        problems.append(f"the rounds on record are {numbers}")
    scores = Counter((record["round"], record["model"]) for record in records if record["kind"] == "score")
    problems += [f"{place} was scored {count} times" for place, count in scores.items() if count > 1]
    titles = [int(found[1]) for line in (run / "run.log").read_text().splitlines() if (found := ROUND.search(line))]
    if titles != list(range(1, rounds + 1)):
        problems.append(f"the rounds in run.log are {titles}")
    problems += [f"{path} is left behind" for pattern in LEFT_BEHIND for path in run.glob(pattern)]
    return problems


def lost_rounds(printed: Sequence[Sequence[str]]) -> list[str]:
    """What each start of the coordinator forgot of the one before: a round whose successor had begun was complete.

    >>> lost_rounds([["Training round 7/9"], ["Going on after round 5 of 9"]])
    ['after round 7 had begun the run went on after round 5']
    """
    problems, begun = [], 0
    for lines in printed:
        for line in lines:
            if (found := GOES_ON.search(line)) and int(found[1]) < begun - 1:
                problems.append(f"after round {begun} had begun the run went on after round {found[1]}")
            if found := ROUND.search(line):
                begun = max(begun, int(found[1]))
    return problems


def same(one: Path, other: Path) -> bool:
    """Equal names, dtypes, shapes and bits."""
    models = [safetensors.torch.load_file(path) for path in (one, other)]
    return models[0].keys() == models[1].keys() and all(
        (a.dtype, a.shape) == (b.dtype, b.shape) and torch.equal(_bits(a), _bits(b))
        for a, b in ((models[0][name], models[1][name]) for name in models[0])
    )


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def _records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def _stamped(command: Command) -> list[tuple[float, str]]:
    found = (STAMPED.fullmatch(line) for line in command.lines)
    return [(datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S,%f").timestamp(), match[2]) for match in found if match]


def _spread(seconds: Sequence[float]) -> str:
    if not seconds:
        return "never seen"
    return f"median {statistics.median(seconds):.2f} s, {min(seconds):.2f} to {max(seconds):.2f} s ({len(seconds)})"
