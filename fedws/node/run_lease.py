"""Whose turn it is at a node: one run's at a time, and of its links the newest one's."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import datetime

from fedws.core.errors import LinkLost, LinkRefused, TakenOver
from fedws.network.base import Channel, Limits
from fedws.protocol.run_claim import RunClaim

IDLE_PEER_TIMEOUTS = 10
"""Times ``peer_timeout`` for which a run keeps a node without a request, although another run connects."""
MAX_LINKS_PER_RUN = 16
"""Links of one run at once, of which all but one wait for those before them to end."""
TAKEN_OVER_REASON = "taken over by the same run"
"""The reason for people when the run of a link connects again; :class:`TakenOver` is what programs decide by."""


class Lease:
    """The time for which one link has the node."""

    def __init__(self, channel: Channel) -> None:
        self.ended = asyncio.Event()
        """Set when the link must end."""
        self.error: LinkLost = TakenOver(TAKEN_OVER_REASON)
        """The error that ends it."""
        self._channel = channel
        self._open_requests = 0
        self._bytes_at_last_request = self._channel.bytes_received
        self._idle_since = asyncio.get_running_loop().time()

    def record_request(self) -> None:
        """Count a request that was received whole."""
        self._open_requests += 1
        self._bytes_at_last_request = self._channel.bytes_received

    def record_answer(self) -> None:
        """Count a request whose answer was sent."""
        self._open_requests -= 1
        self._idle_since = asyncio.get_running_loop().time()

    @property
    def idle_seconds(self) -> float:
        """Seconds for which no request has been open, on its way here, or being fetched from an object store."""
        if (
            self._open_requests
            or self._channel.is_receiving
            or self._channel.bytes_received != self._bytes_at_last_request
        ):
            return 0.0
        return asyncio.get_running_loop().time() - self._idle_since

    def revoke(self) -> None:
        """End the link for another run; its coordinator may connect again, and then gets the refusal ``busy``."""
        self.error = LinkLost(f"idle for {self.idle_seconds:.0f} s, and another run has called")
        self.ended.set()


class LeaseManager:
    """The turns at one node."""

    def __init__(self, node: str, limits: Limits) -> None:
        self._node = node
        self._acquire_timeout = limits.close_timeout
        self._max_idle_seconds = IDLE_PEER_TIMEOUTS * limits.peer_timeout
        self._newest_claim = self._active_claim = RunClaim()  # of the newest link, and of the one that has the node
        self._active_since = datetime.now()
        self._num_links = 0  # of the run; the last one frees the node
        self._newest_lease: Lease | None = None
        self._lock = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def acquire(self, channel: Channel, claim: RunClaim) -> AsyncIterator[Lease]:
        """Have the node while the context lasts.

        Older links of the run end, and the one link of another run that has been idle for long; they are waited for, at
        most a sixth of ``peer_timeout``. Raises LinkRefused when the node is busy with another run, with too many links
        of this one, or still with what it did for an older link; and TakenOver when a newer link came meanwhile.
        """
        if self._num_links and not claim.may_continue(self._newest_claim):
            if self._newest_lease is None or self._newest_lease.idle_seconds < self._max_idle_seconds:
                raise self._build_busy_error()
            self._newest_lease.revoke()
        if self._num_links >= MAX_LINKS_PER_RUN:
            raise self._build_busy_error()
        self._newest_claim = claim
        if self._newest_lease is not None:
            self._newest_lease.ended.set()
        self._newest_lease = lease = Lease(channel)
        self._num_links += 1
        try:
            async with asyncio.timeout(self._acquire_timeout):
                await self._lock.acquire()
        except TimeoutError:
            if self._newest_lease is lease:  # the node is still at work for the run before
                self._newest_claim = self._active_claim
            raise (lease.error if lease.ended.is_set() else self._build_busy_error()) from None
        else:
            try:
                if lease.ended.is_set():
                    raise lease.error
                self._active_since, self._active_claim = datetime.now(), claim
                yield lease
            finally:
                self._lock.release()
        finally:
            self._num_links -= 1
            if self._newest_lease is lease:
                self._newest_lease = None

    def _build_busy_error(self) -> LinkRefused:
        since = self._active_since.strftime("%Y-%m-%d %H:%M:%S")
        return LinkRefused("busy", f"{self._node} is busy with run {self._newest_claim.run_id_prefix} since {since}")
