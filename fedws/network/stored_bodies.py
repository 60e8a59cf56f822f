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
from fedws.core.rate_limited_log import RateLimitedLog
from fedws.object_store.base import Store

_EXECUTOR = ThreadPoolExecutor(8, thread_name_prefix="store")
"""A store that hangs keeps other stores waiting, and nobody else."""


class StoredBodies:
    """Those of one run, as one node stores them. A blob stays while a link may have to send it again.

    Each node has a folder of its own in the run, so that no two count the uses of one blob.
    """

    def __init__(self, store: Store, min_bytes: int, run: str, node: str) -> None:
        self.min_bytes = min_bytes
        """Bytes; a larger body goes through the store."""
        self._store = store
        self._run = run
        self._node = node
        self._rate_limited_log = RateLimitedLog(node)
        self._closed = False
        self._use_counts: Counter[str] = Counter()
        self._counted_digests: set[str] = set()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stop_events: set[threading.Event] = set()

    async def put(self, digest: str, body: Sequence[memoryview]) -> int:
        """Store a body, and keep it until :meth:`release`. Raises StoreError.

        Gives how many bytes it took: none where a link before has stored it.
        """
        if self._closed:
            raise StoreError("the run has ended")
        self._use_counts[digest] += 1
        stop = threading.Event()
        work = self._start_task(self._put(digest, body, stop))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:  # its thread ends at the next part; only then can the blob be deleted
            stop.set()
            work.add_done_callback(lambda _: self.release(digest))
            raise
        except StoreError:
            self.release(digest)
            raise

    async def get(self, node: str, digest: str, buffer: memoryview) -> None:
        """Fill ``buffer`` with a body that ``node`` has stored. Raises StoreError."""
        stop = threading.Event()
        try:
            await _run_in_executor(partial(self._store.get, self._folder(node), digest, buffer, stop=stop))
        finally:
            stop.set()

    def release(self, digest: str) -> None:
        """One who put it does without it; after the last one it is deleted, if the store lets us."""
        self._use_counts[digest] -= 1
        if not self._use_counts[digest] and not self._closed:
            self._start_task(self._delete(digest))

    def log_store_error(self, error: StoreError) -> None:
        """Say that a body has to go another way."""
        self._rate_limited_log.log(f"a large body goes on the link: {error}")

    async def delete_all(self, nodes: Collection[str]) -> None:
        """End what is going on, and delete all that these nodes have left of the run. Raises StoreError."""
        self._closed = True
        for stop in self._stop_events:
            stop.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        cleaned = (_run_in_executor(partial(self._store.delete_run, self._folder(node))) for node in nodes)
        for result in await asyncio.gather(*cleaned, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    def _folder(self, node: str) -> str:
        """Return the folder of a node's blobs in the run, 16 hexadecimal digits."""
        return sha256(f"{self._run}/{node}".encode()).hexdigest()[:16]

    def _lock(self, digest: str) -> asyncio.Lock:
        lock = self._locks.get(digest)
        if lock is None:
            lock = self._locks[digest] = asyncio.Lock()
        return lock

    async def _put(self, digest: str, body: Sequence[memoryview], stop: threading.Event) -> int:
        self._stop_events.add(stop)
        try:
            async with self._lock(digest):  # of those who send the same, the first one stores it
                await _run_in_executor(partial(self._store.put, self._folder(self._node), digest, body, stop=stop))
                known = digest in self._counted_digests
                self._counted_digests.add(digest)
                return 0 if known else sum(map(len, body))
        finally:
            self._stop_events.discard(stop)

    async def _delete(self, digest: str) -> None:
        async with self._lock(digest):
            if self._use_counts[digest]:
                return  # somebody has put it again
            del self._use_counts[digest]
            self._counted_digests.discard(digest)
            with contextlib.suppress(StoreError):  # what is left is deleted with the run
                await _run_in_executor(partial(self._store.delete, self._folder(self._node), digest))

    def _start_task(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)

        def done(task: asyncio.Task[Any]) -> None:
            self._tasks.discard(task)
            if not task.cancelled():
                task.exception()  # whoever waited for it has it

        task.add_done_callback(done)
        return task


async def _run_in_executor(function: Callable[[], None]) -> None:
    await asyncio.get_running_loop().run_in_executor(_EXECUTOR, function)
