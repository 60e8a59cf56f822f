"""The server trainer: a process beside the coordinator that trains on uploaded features.

A separate process keeps the links responsive during training. Requests and answers pass through its standard input and
output. They are encoded as on a link, and each is preceded by its length.
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

from fedws.core.limits import NO_MESSAGE_LIMITS
from fedws.core.plan import Plan
from fedws.protocol.decoder import Decoder
from fedws.protocol.encoder import encode_message
from fedws.protocol.messages import Answer, Message, TaskFailure, TaskRequest, TaskResult, build_failure

log = logging.getLogger("fedws")
LENGTH_PREFIX = struct.Struct(">Q")
"""Format of the length in bytes that precedes each message."""


class ServerTrainer:
    """A context manager that runs the server trainer's process and carries out one request after another.

    A process that has died is restarted for the next request.
    """

    def __init__(self, plan: Plan, feature_dir: Path) -> None:
        arguments = {"algorithm": plan.algorithm, "plugins": plan.plugins, "threads": plan.threads}
        arguments["feature_dir"] = str(feature_dir)
        self._arguments = json.dumps({**arguments, "verbose": log.isEnabledFor(logging.DEBUG)})
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        await self._ensure_started()
        return self

    async def _ensure_started(self) -> asyncio.subprocess.Process:
        if self._process is None:
            command = (sys.executable, "-m", "fedws.coordinator.server_trainer_main", self._arguments)
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
            self._process.kill()  # all its data are stored already
        await self._process.wait()

    async def execute(self, request: TaskRequest) -> Answer:
        """Have the process carry out a request, and return its answer.

        The answer is a failure of kind ``lost`` if the process dies before it answers.
        """
        process = await self._ensure_started()
        assert process.stdin is not None and process.stdout is not None
        encoded = encode_message(request, NO_MESSAGE_LIMITS)
        try:
            process.stdin.write(LENGTH_PREFIX.pack(encoded.size))
            for piece in encoded.fragments():
                process.stdin.write(piece)
                await process.stdin.drain()
            (size,) = LENGTH_PREFIX.unpack(await process.stdout.readexactly(LENGTH_PREFIX.size))
            decoder = Decoder(size)
            while size:
                piece = await process.stdout.read(min(size, 2**20))
                if not piece:
                    raise EOFError
                decoder.feed(piece)
                size -= len(piece)
        except (EOFError, OSError, asyncio.IncompleteReadError):
            status, self._process = await process.wait(), None
            reason = f"the server trainer ended with status {status} (out of memory?)"
            return build_failure(request, "lost", reason)
        answer: Message = decoder.build_message()
        assert isinstance(answer, TaskResult | TaskFailure)
        return answer
