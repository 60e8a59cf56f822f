"""The lease of a node, which one run has at a time, and within the run its newest link."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import datetime

from fedws.core.errors import LinkLost, LinkRefused, TakenOver
from fedws.network.base import Channel, Limits
from fedws.protocol.run_claim import RunClaim

IDLE_PEER_TIMEOUTS = 10
"""Number of ``peer_timeout`` periods after which an idle run loses the node to another run that connects."""
MAX_LINKS_PER_RUN = 16
"""Maximum number of links of one run at once; all but one wait for the older ones to end."""
TAKEN_OVER_REASON = "taken over by the same run"
"""Reason of a close, for people, when the run of a link connects again. Programs decide by ``TakenOver``."""


class Lease:
    """A lease: the time for which one link has the node."""

    def __init__(self, channel: Channel) -> None:
        self.ended = asyncio.Event()
        """Event that is set when the link must end."""
        self.error: LinkLost = TakenOver(TAKEN_OVER_REASON)
        """Error that ends the link."""
        self._channel = channel
        self._open_requests = 0
        self._bytes_at_last_request = self._channel.bytes_received
        self._idle_since = asyncio.get_running_loop().time()

    def record_request(self) -> None:
        """Count a request that was received completely."""
        self._open_requests += 1
        self._bytes_at_last_request = self._channel.bytes_received

    def record_answer(self) -> None:
        """Count an answer that was sent."""
        self._open_requests -= 1
        self._idle_since = asyncio.get_running_loop().time()

    @property
    def idle_seconds(self) -> float:
        """Return the seconds since the last activity.

        A request that is open, being received, or being fetched from an object store counts as activity.
        """
        if (
            self._open_requests
            or self._channel.is_receiving
            or self._channel.bytes_received != self._bytes_at_last_request
        ):
            return 0.0
        return asyncio.get_running_loop().time() - self._idle_since

    def revoke(self) -> None:
        """End the link in favour of another run.

        Its coordinator may connect again. It then gets the refusal ``busy``.
        """
        self.error = LinkLost(f"idle for {self.idle_seconds:.0f} s, and another run connected")
        self.ended.set()


class LeaseManager:
    """A manager of the leases of one node."""

    def __init__(self, node: str, limits: Limits) -> None:
        self._node = node
        self._acquire_timeout = limits.close_timeout
        self._max_idle_seconds = IDLE_PEER_TIMEOUTS * limits.peer_timeout
        self._newest_claim = self._active_claim = RunClaim()  # newest link; link that has the node
        self._active_since = datetime.now()
        self._num_links = 0  # links of the run; the node is free at 0
        self._newest_lease: Lease | None = None
        self._lock = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def acquire(self, channel: Channel, claim: RunClaim) -> AsyncIterator[Lease]:
        """Acquire the node while the context lasts.

        End older links of the same run, and the link of another run that has been idle for too long. Wait for them for
        at most a sixth of ``peer_timeout``. Raises LinkRefused if the node is busy with another run, with too many
        links of this run, or with work for an older link. Raises TakenOver if a newer link connects in the meantime.
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
            if self._newest_lease is lease:  # the node is still working for the previous run
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
