"""Inject faults into a federation: kill, stop, hold, throttle and cut.

Every sleep is a part of a fault: its delay after the start of a round, or its duration.
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
"""Seconds between two checks for a file."""


class FaultInjector:
    """Tasks that inject faults into these programs, and add them to the outcome.

    ``run`` is the run's directory. ``rate`` is the rate of a link without a fault. ``say`` is called with each fault
    when it begins.
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
        """Number of faults that last at the moment."""

    def begin(self, fault: Fault) -> None:
        """Inject a fault after its delay."""
        self._tasks.append(asyncio.create_task(self._inject(fault)))

    def check(self) -> None:
        """Raise the error of a fault whose injection failed."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def end(self) -> None:
        """End all faults."""
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

    async def _inject(self, fault: Fault) -> None:
        await asyncio.sleep(fault.after)
        inject = {
            "kill": self._kill,
            "lose": self._kill,
            "stop": self._stop,
            "hold": self._hold,
            "throttle": self._throttle,
        }
        await inject.get(fault.kind.what, self._cut)(fault)

    @contextlib.asynccontextmanager
    async def _lasting(self, fault: Fault) -> AsyncIterator[None]:
        """Record a fault as injected; while it lasts, the run does not count as hung."""
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
        with contextlib.suppress(OSError):  # a directory was deleted during the search
            return any(self._run.glob(pattern))
        return False

    async def _again(self, program: Program, pause: float) -> None:
        """Restart a killed program after a pause."""
        self._outcome.kills[program.name] += 1
        command = program.command
        while (status := command._wait(0)) is None:
            await asyncio.sleep(LOOK)
        if status != -signal.SIGKILL:  # it ended before the signal; its status is checked elsewhere
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
