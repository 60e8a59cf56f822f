"""A place for blobs of every registered store, and blobs to keep there."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from fedws.core import registry
from fedws.object_store.base import PART_BYTES, Store, StoreConfig, open_backend
from tests.helpers.s3_proxy import StoreProxy, served

RUN, OTHER = "0123456789abcdef", "f" * 16
PATIENCE = 60.0
LARGE = 2 * PART_BYTES + 17


@dataclass
class Place:
    """A place where the tests of a store keep blobs."""

    url: str
    missing: str
    """URL at which nothing can be stored."""
    why: str
    """Error text of that URL."""
    left: Callable[[], list[str]]
    """All files of the place, including unfinished blobs."""

    @cached_property
    def store(self) -> Store:
        """The store of a node."""
        return self.another()

    def another(self) -> Store:
        """The same store as another process opens it."""
        return open_backend(StoreConfig(self.url, 0), PATIENCE)


@pytest.fixture(scope="module")
def s3() -> Iterator[StoreProxy]:
    """Return a place for the S3 store."""
    with served() as proxy:
        yield proxy


def _file(tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    folder = tmp_path / "shared blobs"
    folder.mkdir()

    def left() -> list[str]:
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

    url = folder.as_uri()
    return Place(url, f"{url}-none", "directory not found", left)


def _s3(tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    proxy: StoreProxy = request.getfixturevalue("s3")
    bucket = proxy.bucket()

    def left() -> list[str]:
        return [key.removeprefix("a/prefix/") for key in proxy.left(bucket)]

    host, advice = f"127.0.0.1:{proxy.server_port}", "create it, or put the bucket first: s3://BUCKET/no-such-bucket/x"
    why = f"bucket 'no-such-bucket' not found at {host}; {advice}"
    return Place(f"s3://{bucket}/a/prefix", "s3://no-such-bucket/x", why, left)


PLACES = {"file": _file, "s3": _s3}
"""Places of all stores; a new store needs a line here."""


@pytest.fixture(params=registry.list_pieces("store"))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return PLACES[request.param](tmp_path, request)


def blob(size: int, seed: int = 0) -> tuple[str, bytes]:
    """Return a name and its bytes."""
    body = Random(seed).randbytes(size)
    return sha256(body).hexdigest(), body


def views(body: bytes) -> list[memoryview]:
    """Return a body in pieces of all sizes, as a message has it."""
    whole, ends = memoryview(body), [0, 1, 1, 65, 4096, PART_BYTES - 1, PART_BYTES + 64, len(body)]
    ends = sorted(min(end, len(body)) for end in ends)
    return [whole[start:end] for start, end in pairwise(ends)]


def got(store: Store, name: str, size: int, run: str = RUN) -> bytes:
    into = bytearray(size)
    store.get(run, name, memoryview(into))
    return bytes(into)
