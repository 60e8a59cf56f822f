"""The closing of a listener without losing a connection that it has just accepted."""

import asyncio
from collections.abc import Iterable
from typing import Protocol

_STEPS_UNTIL_CONNECTED = 2
"""Number of loop iterations: one until the accepted socket has a transport, one until its protocol is connected."""


class _ListeningSocket(Protocol):
    def fileno(self) -> int: ...


async def stop_accepting(sockets: Iterable[_ListeningSocket]) -> None:
    """Stop accepting connections, and return when the last accepted one belongs to its server.

    Up to Python 3.12 an asyncio server that is closed in the same loop iteration in which it accepted a connection
    never closes that connection's socket (https://github.com/python/cpython/issues/109564).
    """
    loop = asyncio.get_running_loop()
    if not isinstance(loop, asyncio.SelectorEventLoop):
        return
    for listening in sockets:
        loop.remove_reader(listening.fileno())
    for _ in range(_STEPS_UNTIL_CONNECTED):
        await asyncio.sleep(0)
