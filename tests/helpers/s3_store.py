"""An S3 store behind a proxy that causes faults, the blobs of tests, and the errors that it raises."""

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
"""Timeout in seconds of operations that do not hang."""


@pytest.fixture(scope="module")
def proxies() -> Iterator[StoreProxy]:
    """Serve one proxy for all tests of a file."""
    with served() as found:
        yield found


@pytest.fixture(scope="module")
def url(proxies: StoreProxy) -> str:
    """Return the URL of a bucket and a prefix."""
    return f"s3://{proxies.bucket()}/fedws"


@pytest.fixture(scope="module")
def own(url: str) -> S3Store:
    """Create one store for all tests of a file, because clients of boto3 are slow to create."""
    return S3Store(url, PATIENCE)


@pytest.fixture
def store(own: S3Store, proxy: StoreProxy) -> S3Store:
    """Return the store of a node with a long timeout."""
    return own


@pytest.fixture
def proxy(proxies: StoreProxy, own: S3Store) -> Iterator[StoreProxy]:
    """Return the proxy without faults; clean up what a test has stored."""
    proxies.heal()
    yield proxies
    proxies.heal()
    own.delete_run(RUN)
    assert left(proxies, own) == []


@pytest.fixture(autouse=True)
def pauses(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the delays between two attempts of the store, without waiting."""
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
    """Return the error's text after the store's name; check that the error and its causes contain no secret."""
    with pytest.raises(kind) as caught:
        use()
    text = re.sub(r"(127\.0\.0\.1|localhost):\d+", r"\1", str(caught.value))
    assert text.startswith(f"{url}: ") and text.isprintable()
    assert not any(secret in text for secret in (KEY_ID, SECRET, "Signature=", "Credential="))
    assert caught.value.__cause__ is None and (caught.value.__suppress_context__ or caught.value.__context__ is None)
    return text.removeprefix(f"{url}: ")
