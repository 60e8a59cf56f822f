"""The coordinator's own node: a process beside it that trains on what workers have sent, so that links go on meanwhile.

Orders and answers cross its standard input and output as they would cross a link, each after its length.
"""

import asyncio
import contextlib
import json
import logging
import struct
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from fedws.core.limits import ANY
from fedws.core.plan import Plan
from fedws.protocol.decoder import Decoder
from fedws.protocol.encoder import encode
from fedws.protocol.messages import Failure, Message, Order, Report

log = logging.getLogger("fedws")
LENGTH = struct.Struct(">Q")
"""What stands before each message."""


class OwnNode:
    """Carries out orders one after the other, while the context lasts. A process that has died is started again."""

    def __init__(self, plan: Plan, store: Path) -> None:
        given = {"strategy": plan.strategy, "plugin": plan.plugin, "threads": plan.threads, "store": str(store)}
        self._begin = json.dumps({**given, "verbose": log.isEnabledFor(logging.DEBUG)})
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        await self._started()
        return self

    async def _started(self) -> asyncio.subprocess.Process:
        if self._process is None:
            command = (sys.executable, "-m", "fedws.coordinator.server_trainer_main", self._begin)
            pipe = asyncio.subprocess.PIPE
            self._process = await asyncio.create_subprocess_exec(
                *command, stdin=pipe, stdout=pipe, start_new_session=True
            )
        return self._process

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()  # it holds nothing that is not stored
        await self._process.wait()

    async def ask(self, order: Order) -> Report | Failure:
        """Have an order carried out; the answer is a failure of kind ``lost`` when the process dies meanwhile."""
        process = await self._started()
        assert process.stdin is not None and process.stdout is not None
        encoded = encode(order, ANY)
        try:
            process.stdin.write(LENGTH.pack(encoded.size))
            for piece in encoded.fragments():
                process.stdin.write(piece)
                await process.stdin.drain()
            (size,) = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))
            decoder = Decoder(size)
            while size:
                piece = await process.stdout.read(min(size, 2**20))
                if not piece:
                    raise EOFError
                decoder.feed(piece)
                size -= len(piece)
        except (EOFError, OSError, asyncio.IncompleteReadError):
            status, self._process = await process.wait(), None
            reason = f"its process ended with status {status} (was memory short?)"
            return Failure(order=order.id, worker=order.worker, round=order.round, kind="lost", reason=reason)
        answer: Message = decoder.message()
        assert isinstance(answer, Report | Failure)
        return answer
