"""The coordinator's own node: a process beside it that trains on what workers have sent, so that links go on meanwhile.

Orders and answers cross its standard input and output as they would cross a link, each after its length.
"""

import asyncio
import contextlib
import json
import struct
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from fedws.decoder import Decoder
from fedws.errors import RunFailed
from fedws.messages import Failure, Message, Order, Report
from fedws.plan import Plan
from fedws.wire import encode

LENGTH = struct.Struct(">Q")
"""What stands before each message."""


class OwnNode:
    """Carries out orders one after the other, while the context lasts."""

    def __init__(self, plan: Plan, store: Path) -> None:
        self._begin = json.dumps(
            {"strategy": plan.strategy, "plugin": plan.plugin, "threads": plan.threads, "store": str(store)}
        )
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        command = (sys.executable, "-m", "fedws.coordinator.trainer", self._begin)
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, start_new_session=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()  # it holds nothing that is not stored
        await self._process.wait()

    async def ask(self, order: Order) -> Report | Failure:
        """Have an order carried out. Raises RunFailed when the process has ended."""
        assert self._process is not None and self._process.stdin is not None and self._process.stdout is not None
        encoded = encode(order, sys.maxsize)
        try:
            self._process.stdin.write(LENGTH.pack(encoded.size))
            for piece in encoded.fragments():
                self._process.stdin.write(piece)
                await self._process.stdin.drain()
            (size,) = LENGTH.unpack(await self._process.stdout.readexactly(LENGTH.size))
            decoder = Decoder(size)
            while size:
                piece = await self._process.stdout.read(min(size, 2**20))
                if not piece:
                    raise EOFError
                decoder.feed(piece)
                size -= len(piece)
        except (EOFError, OSError, asyncio.IncompleteReadError):
            status = await self._process.wait()
            raise RunFailed(
                f"the coordinator's training process ended with status {status}; was memory short?"
            ) from None
        answer: Message = decoder.message()
        assert isinstance(answer, Report | Failure)
        return answer
