"""Whose turn it is at a node: one run's at a time, and of its links the newest one's."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import datetime

from fedws.claim import Claim
from fedws.errors import Refused, TakenOver

MOST_LINKS = 16
"""Links of one run at once, of which all but one wait for those before them to end."""
TAKEN_OVER = "taken over by the same run"
"""The reason for people when the run of a link connects again; :class:`TakenOver` is what programs decide by."""


class Turns:
    """Those of one node."""

    def __init__(self, node: str, patience: float) -> None:
        self._node = node
        self._patience = patience
        self._claim = Claim()
        self._since = datetime.now()
        self._links = 0  # of the run; the last one frees the node
        self._newest = asyncio.Event()
        self._free = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def take(self, claim: Claim) -> AsyncIterator[asyncio.Event]:
        """Have the node while the context lasts; gives what is set when a newer link of the run takes over.

        Older links are told so and waited for, at most ``patience`` seconds. Raises Refused when the node is busy with
        another run, with too many links of this one, or still with what it did for an older link; and TakenOver when
        a newer one came meanwhile.
        """
        if self._links and not claim.continues(self._claim):
            raise self._busy()
        if self._links >= MOST_LINKS:
            raise self._busy()
        self._claim = claim
        self._newest.set()
        self._newest = taken = asyncio.Event()
        self._links += 1
        try:
            async with asyncio.timeout(self._patience):
                await self._free.acquire()
        except TimeoutError:
            raise (TakenOver(TAKEN_OVER) if taken.is_set() else self._busy()) from None
        else:
            try:
                if taken.is_set():
                    raise TakenOver(TAKEN_OVER)
                self._since = datetime.now()
                yield taken
            finally:
                self._free.release()
        finally:
            self._links -= 1

    def _busy(self) -> Refused:
        since = self._since.strftime("%Y-%m-%d %H:%M:%S")
        return Refused("busy", f"{self._node} is busy with run {self._claim.shown} since {since}")
