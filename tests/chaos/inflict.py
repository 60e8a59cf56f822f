"""Does to a federation what faults say: kills, stops, holds, slows and cuts.

Where it sleeps, that is a fault's own time: how long after a round's beginning it comes, and how long it lasts.
"""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

from tests.chaos.faults import COORDINATOR, Fault
from tests.chaos.outcome import Done, Outcome
from tests.chaos.programs import LOOK, Killed, Node, Program

AMID = 0.001
"""Seconds between two looks whether a file is there."""


class Inflictor:
    """Inflicts faults on these programs, each on its own time, and writes down which; ``run`` is the run's directory.

    ``rate`` is what a link carries when nothing is wrong with it; ``on_line`` hears of each fault as it begins.
    """

    def __init__(
        self,
        run: Path,
        nodes: Mapping[str, Node],
        coordinator: Program,
        outcome: Outcome,
        rate: float,
        say: Callable[[Fault], object],
    ) -> None:
        self._run = run
        self._nodes = nodes
        self._coordinator = coordinator
        self._outcome = outcome
        self._rate = rate
        self._say = say
        self._tasks: list[asyncio.Task[None]] = []
        self.under_way = 0
        """How many faults last just now."""

    def begin(self, fault: Fault) -> None:
        """Inflict it when its time has come."""
        self._tasks.append(asyncio.create_task(self._inflict(fault)))

    def check(self) -> None:
        """Raises what inflicting has raised so far."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def end(self) -> None:
        """Whatever still goes wrong ends now."""
        for task in self._tasks:
            if not task.done():
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for node in self._nodes.values():
            node.proxy.release()
            node.proxy.rate = self._rate
        for program in (*self._nodes.values(), self._coordinator):
            if program.incarnations:
                program.send(signal.SIGCONT)

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
        self._outcome.injected.append(Done(fault, at))
        self._say(fault)
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1

    def _program(self, fault: Fault) -> Program:
        return self._coordinator if fault.target == COORDINATOR else self._nodes[fault.target]

    async def _kill(self, fault: Fault) -> None:
        program = self._program(fault)
        while fault.kind.amid and not self._there(fault.kind.amid):
            await asyncio.sleep(AMID)
        if program.down:
            return
        for node in self._nodes.values():
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
            return any(self._run.glob(pattern))
        return False

    async def _again(self, program: Program, pause: float) -> None:
        """Start again, after a pause, what was killed."""
        self._outcome.kills[program.name] += 1
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
        node = self._nodes[fault.target]
        if node.held:
            return
        async with self._lasting(fault):
            node.held = True
            node.proxy.hold(fault.ways)
            await asyncio.sleep(fault.seconds)
            node.proxy.release()
            node.held = False

    async def _throttle(self, fault: Fault) -> None:
        node = self._nodes[fault.target]
        if node.proxy.rate < self._rate:
            return
        async with self._lasting(fault):
            node.proxy.rate = min(fault.rate, self._rate)
            await asyncio.sleep(fault.seconds)
            node.proxy.rate = self._rate

    async def _cut(self, fault: Fault) -> None:
        proxy, how = self._nodes[fault.target].proxy, fault.kind.what
        assert how in ("rst", "fin")
        if fault.bytes:
            if not await proxy.cut_after(fault.bytes, how):
                return
        elif not proxy.cut(how):
            return
        async with self._lasting(fault):
            pass
