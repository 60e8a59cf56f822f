"""The bodies of one run's messages that a node keeps in its object store, instead of sending them on a link."""

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from hashlib import sha256

from fedws.errors import StoreError
from fedws.store import Store


class Blobs:
    """Those of one run. A blob stays while a link may have to send it again; several links share one."""

    def __init__(self, store: Store, above: int, run: str) -> None:
        self.above = above
        """Bytes; a larger body goes through the store."""
        self._store = store
        self._run = sha256(run.encode()).hexdigest()[:16]  # who knows a run's id may take the run over
        self._used: Counter[str] = Counter()
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._dropping: set[asyncio.Task[None]] = set()

    async def put(self, digest: str, body: Sequence[memoryview]) -> None:
        """Store a body, and keep it until :meth:`release`. Raises StoreError."""
        self._used[digest] += 1
        try:
            async with self._locks[digest]:  # of those who send the same, the first one stores it
                await asyncio.to_thread(self._store.put, self._run, digest, body)
        except BaseException:
            self.release(digest)
            raise

    async def get(self, digest: str, into: memoryview) -> None:
        """Fill ``into`` with a body. Raises StoreError."""
        await asyncio.to_thread(self._store.get, self._run, digest, into)

    def release(self, digest: str) -> None:
        """One who put it does without it; after the last one it is deleted, if the store lets us."""
        self._used[digest] -= 1
        if not self._used[digest]:
            task = asyncio.create_task(self._drop(digest))
            self._dropping.add(task)
            task.add_done_callback(self._dropping.discard)

    async def _drop(self, digest: str) -> None:
        async with self._locks[digest]:
            if self._used[digest]:
                return  # somebody has put it again
            del self._used[digest], self._locks[digest]
            with contextlib.suppress(StoreError):  # what is left is deleted with the run
                await asyncio.to_thread(self._store.drop, self._run, digest)

    async def clean(self) -> None:
        """Delete all that the run has left, whoever put it. Raises StoreError."""
        await asyncio.gather(*self._dropping)
        await asyncio.to_thread(self._store.clean, self._run)
