"""The test blob of docs/topics/protocol.md, made as the page describes it, is the one that the code stores."""

import hashlib
from pathlib import Path

from fedws.network.stored_bodies import StoredBodies
from fedws.object_store.backends.file import FileStore
from tests.helpers.protocol_page import TEXT

RUN = "5f" * 16


async def test_the_test_blob_is_that_of_the_page(tmp_path: Path) -> None:
    assert "fedws test blob of run RUN" in TEXT
    content = hashlib.sha256(f"fedws test blob of run {RUN}".encode()).digest()
    folder = hashlib.sha256(f"{RUN}/coordinator".encode()).hexdigest()[:16]
    store = FileStore(tmp_path.as_uri(), 5)
    assert await StoredBodies(store, 0, RUN, "coordinator").put_probe()
    stored = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.relative_to(tmp_path).as_posix() for path in stored] == [
        f"{folder}/{hashlib.sha256(content).hexdigest()}"
    ]
    assert stored[0].read_bytes() == content
    await StoredBodies(store, 0, RUN, "alice").check_probe("coordinator")
