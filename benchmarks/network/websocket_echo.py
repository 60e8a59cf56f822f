"""The peer of a round: a model's bytes echoed over bare ``websockets``, without fedws.

``serve`` is one worker. It receives a whole message, as a worker must before it can train, and sends the received
fragments back. ``drive`` is the coordinator. In each round, it sends the same bytes to every worker at once, as memory
views of at most 1 MiB, and waits until all have come back. Both run on uvloop without compression, as fedws does.
Fragments are kept as they are received; they are not decoded, checked or averaged.
"""

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Sequence

import uvloop
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from benchmarks.network.echo_options import MAX_ROUND, command

FRAGMENT = 2**20


async def echo(link: ServerConnection) -> None:
    """Send every message back after it has arrived completely."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            await link.send([fragment async for fragment in link.recv_streaming()])


async def serving() -> None:
    """Serve on a free port of the loopback interface until the process is ended."""
    async with serve(echo, "127.0.0.1", 0, compression=None, max_size=None) as server:
        print("port", server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


async def round_trip(link: ClientConnection, message: Sequence[memoryview]) -> None:
    """Send a message and wait for its echo."""
    await link.send(message)
    answer = [len(fragment) async for fragment in link.recv_streaming()]
    assert sum(answer) == sum(map(len, message)), "the echo has a different length"


async def driving(size: int, rounds: int, ports: list[int]) -> None:
    """Time ``rounds`` rounds of echoes, and print the seconds of each."""
    model = memoryview(b"\x5a" * size)  # not zeros: the kernel maps them to one page, which stays cached
    message = [model[start : start + FRAGMENT] for start in range(0, size, FRAGMENT)]
    links = [await connect(f"ws://127.0.0.1:{port}", compression=None, max_size=None, proxy=None) for port in ports]
    for _ in range(rounds):
        begun = time.monotonic()
        async with asyncio.timeout(MAX_ROUND), asyncio.TaskGroup() as group:
            for link in links:
                group.create_task(round_trip(link, message))
        print("round", time.monotonic() - begun, flush=True)
    for link in links:
        await link.close()


def run(work: Coroutine[None, None, None]) -> None:
    """Run ``work`` on uvloop, as fedws does."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


if __name__ == "__main__":
    command("python -m benchmarks.network.websocket_echo", lambda: run(serving()), lambda *given: run(driving(*given)))
