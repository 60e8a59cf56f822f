"""A worker made by hand on a websocket, which speaks the protocol without fedws' server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from fedws.protocol.messages import Answer, Hello, Message, TaskRequest, Welcome
from tests.helpers.decoded_messages import decoded
from tests.helpers.federation import worker
from tests.helpers.manual_coordinator import data

WELCOME = Welcome(node="alice", role="worker", dataset="points", num_examples=120)
Reply = Callable[["HandmadeWorker", ServerConnection, TaskRequest], Awaitable[None]]


class HandmadeWorker:
    """A worker that welcomes every run, and calls ``reply`` for each request."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self.url = ""
        self.num_links = 0
        self.closes: list[tuple[int | None, str | None]] = []
        """Code and reason of each link that the coordinator closed."""
        self.closed = asyncio.Event()
        """Event that is set when a link is closed."""

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator["HandmadeWorker"]:
        async with serve(self._handle, "127.0.0.1", 0, compression=None, max_size=None) as server:
            self.url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
            yield self

    async def _handle(self, socket: ServerConnection) -> None:
        self.num_links += 1
        try:
            hello = await receive(socket)
            assert isinstance(hello, Hello)
            await socket.send(data(WELCOME))
            while True:
                request = await receive(socket)
                assert isinstance(request, TaskRequest)
                await self._reply(self, socket, request)
        except ConnectionClosed:
            self.closes.append((socket.close_code, socket.close_reason))
            self.closed.set()


async def receive(socket: ServerConnection) -> Message:
    return decoded(await socket.recv(decode=False))


async def trains(node: HandmadeWorker, socket: ServerConnection, request: TaskRequest) -> None:
    """Answer as a worker does."""
    answer: Answer = await asyncio.to_thread(worker().execute, request)
    await socket.send(data(answer))
