"""An S3 store behind a proxy that makes faults, the blobs that tests keep there, and the errors that it raises."""

import re
from collections.abc import Callable, Iterator
from hashlib import sha256
from random import Random

import pytest

from fedws.core.errors import StoreError
from fedws.object_store.backends.s3 import S3Store
from fedws.object_store.base import PART_BYTES, Store
from fedws.object_store.watchdog import Progress
from tests.helpers.s3_proxy import KEY_ID, SECRET, StoreProxy, served

RUN, OTHER = "0123456789abcdef", "f" * 16
LARGE = Random(1).randbytes(2 * PART_BYTES + 17)
SMALL = Random(2).randbytes(1000)
PATIENCE = 60.0
"""Seconds, where nothing hangs."""


@pytest.fixture(scope="module")
def proxies() -> Iterator[StoreProxy]:
    """One for all tests of a file."""
    with served() as found:
        yield found


@pytest.fixture(scope="module")
def url(proxies: StoreProxy) -> str:
    """A bucket, and a prefix."""
    return f"s3://{proxies.bucket()}/fedws"


@pytest.fixture(scope="module")
def own(url: str) -> S3Store:
    """One for all tests of a file, since every client of boto3 takes its time to be made."""
    return S3Store(url, PATIENCE)


@pytest.fixture
def store(own: S3Store, proxy: StoreProxy) -> S3Store:
    """Of a node that is patient."""
    return own


@pytest.fixture
def proxy(proxies: StoreProxy, own: S3Store) -> Iterator[StoreProxy]:
    """Without faults yet; what a test stores can be cleaned up."""
    proxies.heal()
    yield proxies
    proxies.heal()
    own.delete_run(RUN)
    assert left(proxies, own) == []


@pytest.fixture(autouse=True)
def pauses(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the store waits between two tries; here it does not."""
    found: list[float] = []
    monkeypatch.setattr(Progress, "wait", lambda self, seconds: found.append(seconds))
    return found


def dropped(store: Store, body: bytes) -> None:
    store.delete(RUN, name(body))


def name(body: bytes) -> str:
    return sha256(body).hexdigest()


def put(store: Store, body: bytes) -> None:
    store.put(RUN, name(body), [memoryview(body)])


def got(store: Store, body: bytes) -> bytes:
    into = bytearray(len(body))
    store.get(RUN, name(body), memoryview(into))
    return bytes(into)


def left(proxy: StoreProxy, store: S3Store) -> list[str]:
    return proxy.left(store._bucket)


def error_line(use: Callable[[], object], url: str, kind: type[Exception] = StoreError) -> str:
    """The line that it fails with, after the store's name; in which, and in whose causes, there is nothing secret."""
    with pytest.raises(kind) as caught:
        use()
    text = re.sub(r"(127\.0\.0\.1|localhost):\d+", r"\1", str(caught.value))
    assert text.startswith(f"{url}: ") and text.isprintable()
    assert not any(secret in text for secret in (KEY_ID, SECRET, "Signature=", "Credential="))
    assert caught.value.__cause__ is None and (caught.value.__suppress_context__ or caught.value.__context__ is None)
    return text.removeprefix(f"{url}: ")
