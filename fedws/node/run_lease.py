"""Whose turn it is at a node: one run's at a time, and of its links the newest one's."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from datetime import datetime
from typing import Any

from fedws.core.errors import LinkLost, Refused, TakenOver
from fedws.network.base import Channel
from fedws.protocol.run_claim import Claim

IDLE = 10
"""Times ``silence`` for which a run keeps a node without a request, although another run connects."""
MOST_LINKS = 16
"""Links of one run at once, of which all but one wait for those before them to end."""
TAKEN_OVER = "taken over by the same run"
"""The reason for people when the run of a link connects again; :class:`TakenOver` is what programs decide by."""


class Turn:
    """The time for which one link has the node."""

    def __init__(self, channel: Channel) -> None:
        self.over = asyncio.Event()
        """Set when the link must end."""
        self.reason: LinkLost = TakenOver(TAKEN_OVER)
        """The error that ends it."""
        self._channel = channel
        self._open = 0
        self._heard = self._channel.received
        self._since = asyncio.get_running_loop().time()

    def received(self) -> None:
        """Count a request that was received whole."""
        self._open += 1
        self._heard = self._channel.received

    def answered(self) -> None:
        """Count a request whose answer was sent."""
        self._open -= 1
        self._since = asyncio.get_running_loop().time()

    @property
    def idle(self) -> float:
        """Seconds for which no request has been open, on its way here, or being fetched from an object store."""
        if self._open or self._channel.arriving or self._channel.received != self._heard:
            return 0.0
        return asyncio.get_running_loop().time() - self._since

    def give_way(self) -> None:
        """End the link for another run; its coordinator may connect again, and then gets the refusal ``busy``."""
        self.reason = LinkLost(f"idle for {self.idle:.0f} s, and another run has called")
        self.over.set()


class Turns:
    """The turns at one node."""

    def __init__(self, node: str, silence: float) -> None:
        """``silence`` is in seconds, as in :class:`fedws.network.base.Limits`."""
        self._node = node
        self._patience = silence / 6
        self._idle = IDLE * silence
        self._claim = self._working = Claim()  # of the newest link, and of the one that has the node
        self._since = datetime.now()
        self._links = 0  # of the run; the last one frees the node
        self._newest: Turn | None = None
        self._free = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def take(self, channel: Channel, claim: Claim) -> AsyncIterator[Turn]:
        """Have the node while the context lasts.

        Older links of the run end, and the one link of another run that has been idle for long; they are waited for, at
        most a sixth of ``silence``. Raises Refused when the node is busy with another run, with too many links of this
        one, or still with what it did for an older link; and TakenOver when a newer link came meanwhile.
        """
        if self._links and not claim.continues(self._claim):
            if self._newest is None or self._newest.idle < self._idle:
                raise self._busy()
            self._newest.give_way()
        if self._links >= MOST_LINKS:
            raise self._busy()
        self._claim = claim
        if self._newest is not None:
            self._newest.over.set()
        self._newest = turn = Turn(channel)
        self._links += 1
        try:
            async with asyncio.timeout(self._patience):
                await self._free.acquire()
        except TimeoutError:
            if self._newest is turn:  # the node is still at work for the run before
                self._claim = self._working
            raise (turn.reason if turn.over.is_set() else self._busy()) from None
        else:
            try:
                if turn.over.is_set():
                    raise turn.reason
                self._since, self._working = datetime.now(), claim
                yield turn
            finally:
                self._free.release()
        finally:
            self._links -= 1
            if self._newest is turn:
                self._newest = None

    def _busy(self) -> Refused:
        since = self._since.strftime("%Y-%m-%d %H:%M:%S")
        return Refused("busy", f"{self._node} is busy with run {self._claim.shown} since {since}")


async def while_up(channel: Channel, work: Coroutine[Any, Any, None]) -> None:
    """Wait for ``work``, but cancel it when the link is down."""
    tasks = [asyncio.create_task(work), asyncio.create_task(channel.closed())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
