"""Nodes that dial out, impostors of them, and runs that listen for them."""

import asyncio
import contextlib
import logging
import random
import socket
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import fedws
from fedws.coordinator.listener import JoinListener
from fedws.network.base import Channel, Limits
from fedws.network.lookup import find_transport
from fedws.node.dial_out import join_run
from fedws.node.evaluator import create_evaluator
from fedws.protocol import encoder
from fedws.protocol.messages import Hello, Join, Message
from fedws.security.credentials import INSECURE, Credentials
from tests.helpers.federation import HELD, WORKERS, Points, settings

FIRST, SECOND = "1" * 64, "2" * 64
"""Instance ids of a node."""
HELLO = Hello(run="cafe", node="alice", protocol=encoder.PROTOCOL_VERSION)


def join(instance: str = FIRST, node: str = "alice", protocol: int = encoder.PROTOCOL_VERSION) -> Join:
    return Join(node=node, protocol=protocol, instance_id=instance)


@contextlib.asynccontextmanager
async def meeting(
    url: str = "memory://meeting", security: Credentials = INSECURE, silence: float = 60, *expected: str
) -> AsyncIterator[tuple[JoinListener, str]]:
    """Open a listener as a run does, and return it with its address."""
    limits = Limits(peer_timeout=silence)
    place = JoinListener(expected or WORKERS, limits, security)
    async with find_transport(url).serve(url, place.handle, limits, security.tls) as address:
        yield place, address


async def come(message: Message | None = None, url: str = "memory://meeting") -> Channel:
    """Connect, and send this message first."""
    channel = await find_transport(url).connect(url, Limits())
    await channel.send(message or join())
    return channel


def node(name: str) -> fedws.Worker:
    """Return a worker, or the evaluator."""
    if name == "testing":
        return create_evaluator(name, "points", Points(Path(), False))
    return fedws.Worker(name, "points", Points(Path(), True), labels=HELD.get(name))


@contextlib.asynccontextmanager
async def outside(
    url: str, *names: str, security: Mapping[str, Credentials] | Credentials | None = None, limits: Limits | None = None
) -> AsyncIterator[None]:
    """Let these nodes dial out; ``security`` is the credentials of each node or of all."""
    async with contextlib.AsyncExitStack() as stack:
        for name in names:
            own = security[name] if isinstance(security, Mapping) else security
            await stack.enter_async_context(join_run(node(name), url, limits, own))
        yield


def expecting(url: str, *names: str, **more: Any) -> dict[str, Any]:
    """Return the settings of a run that listens for these nodes."""
    workers = [name for name in names if name != "testing"]
    found = settings({}, listen=url, expect_workers=workers, **more)
    del found["workers"]
    return {**found, "evaluator": "testing"} if "testing" in names else found


def free_port() -> int:
    """Return a free port below those that the system gives to outgoing connections."""
    while True:
        port = random.SystemRandom().randrange(20_000, 30_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


@contextlib.asynccontextmanager
async def listening(
    directory: Path, lines: list[str] | None = None, **settings: Any
) -> AsyncIterator[tuple[asyncio.Task[fedws.RunResult], str]]:
    """Start a run that listens, and return it with its address; ``lines`` collects the log lines."""
    heard: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            """Read the address from a log record."""
            words = record.getMessage().split()
            if lines is not None:
                lines.append(record.getMessage())
            if words[:2] == ["Listening", "at"] and not heard.done():
                heard.set_result(words[2])

    logger, handler = logging.getLogger("fedws"), Handler(logging.INFO)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    task = asyncio.create_task(fedws.run(run_dir=directory, **settings))
    try:
        task.add_done_callback(lambda _: heard.cancel())
        yield task, await heard
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
