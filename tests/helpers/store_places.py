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
    """Where the tests of a store keep blobs."""

    url: str
    missing: str
    """Where nothing can be kept."""
    why: str
    """What is said of it."""
    left: Callable[[], list[str]]
    """All that is there, unfinished blobs too."""

    @cached_property
    def store(self) -> Store:
        """A node's own."""
        return self.another()

    def another(self) -> Store:
        """As another process would have it."""
        return open_backend(StoreConfig(self.url, 0), PATIENCE)


@pytest.fixture(scope="module")
def s3() -> Iterator[StoreProxy]:
    """A store that speaks S3."""
    with served() as proxy:
        yield proxy


def _file(tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    folder = tmp_path / "shared blobs"
    folder.mkdir()

    def left() -> list[str]:
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

    url = folder.as_uri()
    return Place(url, f"{url}-none", "there is no such folder", left)


def _s3(tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    proxy: StoreProxy = request.getfixturevalue("s3")
    bucket = proxy.bucket()

    def left() -> list[str]:
        return [key.removeprefix("a/prefix/") for key in proxy.left(bucket)]

    why = f"there is no such bucket at 127.0.0.1:{proxy.server_port}"
    return Place(f"s3://{bucket}/a/prefix", "s3://no-such-bucket/x", why, left)


PLACES = {"file": _file, "s3": _s3}
"""A new store would be tested by one more of these."""


@pytest.fixture(params=registry.list_pieces("store"))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return PLACES[request.param](tmp_path, request)


def blob(size: int, seed: int = 0) -> tuple[str, bytes]:
    """A name and its bytes."""
    body = Random(seed).randbytes(size)
    return sha256(body).hexdigest(), body


def views(body: bytes) -> list[memoryview]:
    """A body as a message has it, in pieces of all sizes."""
    whole, ends = memoryview(body), [0, 1, 1, 65, 4096, PART_BYTES - 1, PART_BYTES + 64, len(body)]
    ends = sorted(min(end, len(body)) for end in ends)
    return [whole[start:end] for start, end in pairwise(ends)]


def got(store: Store, name: str, size: int, run: str = RUN) -> bytes:
    into = bytearray(size)
    store.get(run, name, memoryview(into))
    return bytes(into)
