"""The message bodies of one run that a node keeps in its object store, instead of sending them on a link."""

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
"""Threads for the calls to stores. A store that does not answer can delay calls to stores only."""


class StoredBodies:
    """The bodies of one run that one node has stored. A blob is kept as long as a link may have to send it again.

    Each node has its own folder in the run, so that only one node counts the uses of a blob.
    """

    def __init__(self, store: Store, min_bytes: int, run: str, node: str) -> None:
        self.min_bytes = min_bytes
        """Size in bytes above which a body goes through the store."""
        self._store = store
        self._run = run
        self._node = node
        self._rate_limited_log = RateLimitedLog(node)
        self._closed = False
        self._abandoned = False
        self._use_counts: Counter[str] = Counter()
        self._counted_digests: set[str] = set()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stop_events: set[threading.Event] = set()

    async def put(self, digest: str, body: Sequence[memoryview]) -> int:
        """Store a body, and keep it until ``release``.

        Return the number of stored bytes, which is 0 if an earlier link has stored the body. Raise StoreError if the
        store fails or the run has ended.
        """
        if self._closed:
            raise StoreError("the run has ended")
        self._use_counts[digest] += 1
        stop = threading.Event()
        upload = self._start_task(self._put(digest, body, stop))
        try:
            return await asyncio.shield(upload)
        except asyncio.CancelledError:  # the thread ends at the next part; only then can the blob be deleted
            stop.set()
            upload.add_done_callback(lambda _: self.release(digest))
            raise
        except StoreError:
            self.release(digest)
            raise

    async def get(self, node: str, digest: str, buffer: memoryview) -> None:
        """Fill ``buffer`` with a body that ``node`` has stored. Raise StoreError if that fails."""
        stop = threading.Event()
        try:
            await _run_in_executor(partial(self._store.get, self._folder(node), digest, buffer, stop=stop))
        finally:
            stop.set()

    async def put_probe(self) -> bool:
        """Store the test blob of the run, by which other nodes find out that they use the same store.

        Return False and log the error if the store fails.
        """
        data = _build_probe(self._run)
        digest, folder = sha256(data).hexdigest(), self._folder(self._node)
        try:
            await _run_in_executor(partial(self._store.put, folder, digest, [memoryview(data)]))
        except StoreError as error:
            self.log_store_error(error)
            return False
        return True

    async def check_probe(self, node: str) -> None:
        """Raise BlobMissing or StoreError unless this store has the test blob that ``node`` has stored."""
        data = _build_probe(self._run)
        await self.get(node, sha256(data).hexdigest(), memoryview(bytearray(len(data))))

    def release(self, digest: str) -> None:
        """End one use of a body. After the last use, the blob is deleted if the store permits it."""
        self._use_counts[digest] -= 1
        if not self._use_counts[digest] and not self._closed:
            self._start_task(self._delete(digest))

    def log_store_error(self, error: StoreError) -> None:
        """Log that a body is sent on the link because the store has failed."""
        self._rate_limited_log.log(f"a body was not stored, and bodies are sent on the link: {error}")

    def abandon(self) -> None:
        """Leave the bodies to another coordinator that has taken over the run."""
        self._abandoned = True

    async def delete_all(self, nodes: Collection[str]) -> None:
        """Stop all transfers, and delete all blobs of the run that ``nodes`` have stored.

        After ``abandon``, delete nothing. Raise StoreError if the store fails.
        """
        self._closed = True
        for stop in self._stop_events:
            stop.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._abandoned:
            return
        deletions = (_run_in_executor(partial(self._store.delete_run, self._folder(node))) for node in nodes)
        for result in await asyncio.gather(*deletions, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    def _folder(self, node: str) -> str:
        """Return the name of the folder with a node's blobs in the run, 16 hexadecimal digits."""
        return sha256(f"{self._run}/{node}".encode()).hexdigest()[:16]

    def _lock(self, digest: str) -> asyncio.Lock:
        lock = self._locks.get(digest)
        if lock is None:
            lock = self._locks[digest] = asyncio.Lock()
        return lock

    async def _put(self, digest: str, body: Sequence[memoryview], stop: threading.Event) -> int:
        self._stop_events.add(stop)
        try:
            async with self._lock(digest):  # the first of several links with the same body stores it
                await _run_in_executor(partial(self._store.put, self._folder(self._node), digest, body, stop=stop))
                already_counted = digest in self._counted_digests
                self._counted_digests.add(digest)
                return 0 if already_counted else sum(map(len, body))
        finally:
            self._stop_events.discard(stop)

    async def _delete(self, digest: str) -> None:
        async with self._lock(digest):
            if self._use_counts[digest]:
                return  # another link has stored the body again
            del self._use_counts[digest]
            self._counted_digests.discard(digest)
            with contextlib.suppress(StoreError):  # delete_all removes a remaining blob at the end of the run
                await _run_in_executor(partial(self._store.delete, self._folder(self._node), digest))

    def _start_task(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)

        def done(task: asyncio.Task[Any]) -> None:
            self._tasks.discard(task)
            if not task.cancelled():
                task.exception()  # the waiting caller raises it; this prevents a warning of asyncio

        task.add_done_callback(done)
        return task


def _build_probe(run: str) -> bytes:
    """Return the content of a run's test blob, 32 bytes."""
    return sha256(f"fedws test blob of run {run}".encode()).digest()


async def _run_in_executor(function: Callable[[], None]) -> None:
    await asyncio.get_running_loop().run_in_executor(_EXECUTOR, function)
