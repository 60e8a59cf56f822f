"""The bodies of one run's messages that a node keeps in its object store, instead of sending them on a link."""

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from typing import Any
from weakref import WeakValueDictionary

from fedws.core.errors import StoreError
from fedws.core.rate_limited_log import Complaints
from fedws.object_store.base import Store

_THREADS = ThreadPoolExecutor(8, thread_name_prefix="store")
"""A store that hangs keeps other stores waiting, and nobody else."""


class Blobs:
    """Those of one run, as one node stores them. A blob stays while a link may have to send it again.

    Each node has a folder of its own in the run, so that no two count the uses of one blob.
    """

    def __init__(self, store: Store, above: int, run: str, node: str) -> None:
        self.above = above
        """Bytes; a larger body goes through the store."""
        self._store = store
        self._run = run
        self._node = node
        self._complaints = Complaints(node)
        self._ended = False
        self._used: Counter[str] = Counter()
        self._counted: set[str] = set()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._working: set[asyncio.Task[Any]] = set()
        self._stops: set[threading.Event] = set()

    async def put(self, digest: str, body: Sequence[memoryview]) -> int:
        """Store a body, and keep it until :meth:`release`. Raises StoreError.

        Gives how many bytes it took: none where a link before has stored it.
        """
        if self._ended:
            raise StoreError("the run has ended")
        self._used[digest] += 1
        stop = threading.Event()
        work = self._begin(self._put(digest, body, stop))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:  # its thread ends at the next part; only then can the blob be deleted
            stop.set()
            work.add_done_callback(lambda _: self.release(digest))
            raise
        except StoreError:
            self.release(digest)
            raise

    async def get(self, node: str, digest: str, into: memoryview) -> None:
        """Fill ``into`` with a body that ``node`` has stored. Raises StoreError."""
        stop = threading.Event()
        try:
            await _threaded(partial(self._store.get, self._place(node), digest, into, stop=stop))
        finally:
            stop.set()

    def release(self, digest: str) -> None:
        """One who put it does without it; after the last one it is deleted, if the store lets us."""
        self._used[digest] -= 1
        if not self._used[digest] and not self._ended:
            self._begin(self._drop(digest))

    def complain(self, error: StoreError) -> None:
        """Say that a body has to go another way."""
        self._complaints.hear(f"a large body goes on the link: {error}")

    async def clean(self, nodes: Collection[str]) -> None:
        """End what is going on, and delete all that these nodes have left of the run. Raises StoreError."""
        self._ended = True
        for stop in self._stops:
            stop.set()
        await asyncio.gather(*self._working, return_exceptions=True)
        cleaned = (_threaded(partial(self._store.clean, self._place(node))) for node in nodes)
        for result in await asyncio.gather(*cleaned, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    def _place(self, node: str) -> str:
        """Return the folder of a node's blobs in the run, 16 hexadecimal digits."""
        return sha256(f"{self._run}/{node}".encode()).hexdigest()[:16]

    def _lock(self, digest: str) -> asyncio.Lock:
        lock = self._locks.get(digest)
        if lock is None:
            lock = self._locks[digest] = asyncio.Lock()
        return lock

    async def _put(self, digest: str, body: Sequence[memoryview], stop: threading.Event) -> int:
        self._stops.add(stop)
        try:
            async with self._lock(digest):  # of those who send the same, the first one stores it
                await _threaded(partial(self._store.put, self._place(self._node), digest, body, stop=stop))
                known = digest in self._counted
                self._counted.add(digest)
                return 0 if known else sum(map(len, body))
        finally:
            self._stops.discard(stop)

    async def _drop(self, digest: str) -> None:
        async with self._lock(digest):
            if self._used[digest]:
                return  # somebody has put it again
            del self._used[digest]
            self._counted.discard(digest)
            with contextlib.suppress(StoreError):  # what is left is deleted with the run
                await _threaded(partial(self._store.drop, self._place(self._node), digest))

    def _begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._working.add(task)

        def done(task: asyncio.Task[Any]) -> None:
            self._working.discard(task)
            if not task.cancelled():
                task.exception()  # whoever waited for it has it

        task.add_done_callback(done)
        return task


async def _threaded(work: Callable[[], None]) -> None:
    await asyncio.get_running_loop().run_in_executor(_THREADS, work)
