"""The interface of object stores, which carry large message bodies beside the links, and functions that open a store.

A blob is the body of one message. Its name is the SHA-256 of its bytes, and its path in the store is ``RUN/NAME``. Each
node has its own store setting. A peer only names a blob and its size, never its location.
"""

import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

from fedws.core import registry
from fedws.core.errors import StoreError, UsageError

PART_BYTES = 2**23
"""Size in bytes of a part of a large blob. An interrupted upload continues after the last complete part."""
_RUN_PATTERN = re.compile("[0-9a-f]{16}")
_NAME_PATTERN = re.compile("[0-9a-f]{64}")


class Store(Protocol):
    """A store for blobs.

    A factory ``(url: str, timeout: float)`` is registered with the kind ``store`` and the URL scheme as its name. It
    raises UsageError if the URL is not valid.

    Every method blocks and can be called in several threads at once. It fails after ``timeout`` seconds without
    progress. All methods except ``check_access`` raise StoreError, whose text is one line that names the store and
    contains no secrets. They raise it also if ``build_blob_path`` rejects ``run`` or ``name``.
    """

    def check_access(self) -> None:
        """Try all operations that the other methods require.

        Raise UsageError if one fails, so that a wrong setting is reported before a run begins.
        """

    def put(self, run: str, name: str, body: Sequence[memoryview], *, stop: threading.Event | None = None) -> None:
        """Store a blob that consists of the concatenated views of ``body``, each of format ``B``.

        Send nothing if the store already has a blob of this name and size. Continue or remove an unfinished upload of
        an earlier call, even if its process has ended. If another thread sets ``stop``, raise StoreError
        (``... stopped``) at the next part, and leave nothing unfinished.
        """

    def get(self, run: str, name: str, buffer: memoryview, *, stop: threading.Event | None = None) -> None:
        """Fill ``buffer`` with a blob of exactly its size. Raise BlobMissing if the store does not have the blob.

        If another thread sets ``stop``, raise StoreError at the next part.
        """

    def delete(self, run: str, name: str) -> None:
        """Delete one blob, if it exists."""

    def delete_run(self, run: str) -> None:
        """Delete all blobs of a run, including unfinished ones."""


@dataclass(frozen=True)
class StoreConfig:
    """The store setting of a node."""

    url: str
    min_bytes: int
    """Size in bytes above which a body goes through the store. Other bodies are sent with their messages."""


@dataclass(frozen=True)
class BodyStore:
    """An open store, and the size of the bodies that go through it."""

    store: Store
    min_bytes: int
    """Size in bytes above which a body goes through the store."""
    url: str = ""
    """URL of the store for log lines of this node; it contains no secrets."""


def open_store(url: str, min_bytes: int = 1_000_000, timeout: float = 60.0) -> BodyStore:
    """Open the store at ``url`` for bodies of more than ``min_bytes`` bytes, and check the access to it.

    Each operation of the store fails after ``timeout`` seconds without progress. Raise UsageError if the URL is not
    valid or the check fails.
    """
    return BodyStore(open_backend(StoreConfig(url, min_bytes), timeout), min_bytes, url)


def open_backend(config: StoreConfig, timeout: float) -> Store:
    """Return the store of ``config`` after a check of its access.

    Raise UsageError if the URL is not valid, if its scheme is unknown, or if the check fails.
    """
    scheme = parse_store_url(config.url).scheme
    known = registry.list_pieces("store")
    if scheme not in known:
        raise UsageError(f"{config.url}: unknown scheme {scheme!r}; choose from {', '.join(known)}")
    store: Store = registry.find_piece("store", scheme)(config.url, timeout)
    store.check_access()
    return store


def parse_store_url(url: str) -> SplitResult:
    """Return the parts of a store's URL, which may have only a scheme, a host and a path.

    Raise UsageError for any other URL. Its text repeats no part of the URL that may be secret.
    """
    advice = "use the form s3://BUCKET/PREFIX or file:///PATH"
    if "@" in url:
        raise UsageError(
            "the URL of a store must not contain '@'; remove the user and password, or write %40 in a path"
        )
    try:
        parts = urlsplit(url)
    except ValueError:
        raise UsageError(f"the URL of a store is not a valid URL; {advice}") from None
    if parts.query or parts.fragment:
        raise UsageError(f"the URL of a store must not contain '?' or '#'; {advice}")
    if not parts.scheme:
        raise UsageError(f"{url!r} is not a valid URL of a store; {advice}")
    return parts


def build_blob_path(run: str, name: str | None = None) -> str:
    """Return the path of a blob in a store, ``RUN/NAME``, or the path of a whole run, ``RUN``.

    Every path and key of a store is built here. Raise StoreError unless the run has 16 and the name has 64 lower-case
    hex digits, because both may come from a peer.

    >>> build_blob_path("0123456789abcdef")
    '0123456789abcdef'
    """
    if not _RUN_PATTERN.fullmatch(run):
        raise StoreError("the run of a blob is not 16 hex digits")
    if name is None:
        return run
    if not _NAME_PATTERN.fullmatch(name):
        raise StoreError("the name of a blob is not 64 hex digits")
    return f"{run}/{name}"


def split_into_parts(body: Sequence[memoryview]) -> Iterator[list[memoryview]]:
    """Yield the parts of a body, without a copy of its bytes.

    Each part has ``PART_BYTES`` bytes, except that the last one has the rest. An empty body has no parts.
    """
    part: list[memoryview] = []
    room = PART_BYTES
    for view in body:
        while len(view):
            part.append(view[:room])
            view = view[room:]
            room -= len(part[-1])
            if not room:
                yield part
                part, room = [], PART_BYTES
    if part:
        yield part
