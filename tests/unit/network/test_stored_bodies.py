"""The blobs of a run: who uses one keeps it, whoever else is done with it, stops half-way, or has the same bytes."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from fedws.core.errors import StoreError
from fedws.network.stored_bodies import StoredBodies

DIGEST, OTHER = "a" * 64, "b" * 64
BODY = [memoryview(b"body")]


class Shelved:
    """A store in memory. What a test holds waits in its thread until it is let go, or told to stop."""

    def __init__(self) -> None:
        self.blobs: dict[tuple[str, str], bytes] = {}
        self.held: dict[str, threading.Event] = {}
        self.entered: dict[str, threading.Event] = {name: threading.Event() for name in ("put", "drop")}
        self.puts = 0

    def hold(self, what: str) -> threading.Event:
        self.held[what] = threading.Event()
        return self.held[what]

    def put(self, run: str, name: str, body: Sequence[memoryview], stop: threading.Event | None = None) -> None:
        self.puts += 1
        self._wait("put", stop)
        self.blobs[run, name] = b"".join(body)

    def get(self, run: str, name: str, buffer: memoryview, stop: threading.Event | None = None) -> None:
        if (run, name) not in self.blobs:
            raise StoreError("it is not there")
        buffer[:] = self.blobs[run, name]

    def delete(self, run: str, name: str) -> None:
        self._wait("drop", None)
        self.blobs.pop((run, name), None)

    def delete_run(self, run: str) -> None:
        self.blobs = {place: blob for place, blob in self.blobs.items() if place[0] != run}

    def check_access(self) -> None:
        pass

    def _wait(self, what: str, stop: threading.Event | None) -> None:
        self.entered[what].set()
        while what in self.held and not self.held[what].wait(0.01):
            if stop is not None and stop.is_set():
                raise StoreError("stopped")


@pytest.fixture
async def store() -> AsyncIterator[Shelved]:
    made = Shelved()
    yield made
    for held in made.held.values():
        held.set()


def blobs(store: Shelved, node: str = "coordinator") -> StoredBodies:
    return StoredBodies(store, 0, "run", node)


async def there(store: Shelved, of: StoredBodies, node: str = "coordinator", digest: str = DIGEST) -> bool:
    into = bytearray(4)
    try:
        await of.get(node, digest, memoryview(into))
    except StoreError:
        return False
    return bytes(into) == b"body"


async def settled(of: StoredBodies) -> None:
    """Until nothing is going on."""
    while of._tasks:
        await asyncio.gather(*of._tasks, return_exceptions=True)


async def entered(store: Shelved, what: str) -> None:
    assert await asyncio.to_thread(store.entered[what].wait, 30)


async def test_a_blob_stays_while_anybody_uses_it(store: Shelved) -> None:
    of = blobs(store)
    assert [await of.put(DIGEST, BODY) for _ in range(3)] == [4, 0, 0], "it is sent once"
    for _ in range(2):
        of.release(DIGEST)
        await settled(of)
        assert await there(store, of)
    of.release(DIGEST)
    await settled(of)
    assert store.blobs == {}
    assert await of.put(DIGEST, BODY) == 4 and await there(store, of)


async def test_a_blob_that_is_put_again_while_it_is_deleted_is_there(store: Shelved) -> None:
    of = blobs(store)
    await of.put(DIGEST, BODY)
    gate = store.hold("drop")
    of.release(DIGEST)
    await entered(store, "drop")
    again = asyncio.create_task(of.put(DIGEST, BODY))
    await asyncio.sleep(0)
    gate.set()
    await again
    await settled(of)
    assert await there(store, of)


async def test_a_put_that_nobody_waits_for_stops_and_leaves_nothing(store: Shelved) -> None:
    of = blobs(store)
    store.hold("put")
    put = asyncio.create_task(of.put(DIGEST, BODY))
    await entered(store, "put")
    put.cancel()
    with pytest.raises(asyncio.CancelledError):
        await put
    await settled(of)
    await settled(of)
    assert store.blobs == {} and not of._use_counts


async def test_a_put_that_is_too_far_to_stop_is_deleted_after_it(store: Shelved) -> None:
    of = blobs(store)
    gate = store.hold("put")
    put = asyncio.create_task(of.put(DIGEST, BODY))
    await entered(store, "put")
    put.cancel()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await put
    await settled(of)
    await settled(of)
    assert store.blobs == {}


async def test_cleaning_waits_for_what_is_going_on_and_nothing_begins_after_it(store: Shelved) -> None:
    of = blobs(store)
    store.hold("put")
    put = asyncio.create_task(of.put(DIGEST, BODY))
    await entered(store, "put")
    await of.delete_all(["coordinator"])
    with pytest.raises(StoreError, match="stopped"):
        await put
    with pytest.raises(StoreError, match="the run has ended"):
        await of.put(OTHER, BODY)
    assert store.blobs == {} and store.puts == 1


async def test_nodes_with_the_same_bytes_do_not_delete_each_others(store: Shelved) -> None:
    of = {node: blobs(store, node) for node in ("coordinator", "alice", "bob")}
    for one in of.values():
        await one.put(DIGEST, BODY)
    of["alice"].release(DIGEST)
    await settled(of["alice"])
    found = {node: await there(store, of["coordinator"], node) for node in of}
    assert found == {"coordinator": True, "alice": False, "bob": True}
    await of["coordinator"].delete_all(list(of))
    assert store.blobs == {}


async def test_what_a_store_refuses_is_told_and_counts_for_nothing(store: Shelved) -> None:
    of = blobs(store)

    def refused(*_: Any, **__: Any) -> None:
        raise StoreError("no room")

    store.put = refused  # type: ignore[method-assign]
    with pytest.raises(StoreError, match="no room"):
        await of.put(DIGEST, BODY)
    await settled(of)
    assert not of._use_counts


def test_the_runs_id_is_not_told(store: Shelved) -> None:
    assert len(blobs(store)._folder("alice")) == 16
    assert blobs(store)._folder("alice") != blobs(store)._folder("bob")
