"""The protocol of object stores, which hold the large bodies of messages beside the links; and how one is opened.

A blob is the body of one message. Its name is the SHA-256 of it, and it lies under ``RUN/NAME`` in a store that is this
node's own setting: a peer says a blob's name and size, never where it is.
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
"""Bytes of a large blob that are sent at once; what was interrupted goes on from the last whole part."""
_RUN_PATTERN = re.compile("[0-9a-f]{16}")
_NAME_PATTERN = re.compile("[0-9a-f]{64}")


class Store(Protocol):
    """A place for blobs, chosen by URL scheme. Factory: ``(url: str, timeout: float)``, registered as ``store``.

    The factory raises UsageError for a URL that is none. Every method blocks, may be called in several threads at once,
    and ends after ``timeout`` seconds without progress. All but ``check_access`` raise StoreError, whose text is one
    line that says what store it is and holds nothing secret; also where ``run`` or ``name`` are not as
    :func:`build_blob_path` wants them.
    """

    def check_access(self) -> None:
        """Try all that the other methods need. Raises UsageError: a wrong setting is said before a run begins."""

    def put(self, run: str, name: str, body: Sequence[memoryview], *, stop: threading.Event | None = None) -> None:
        """Store the blob, whose bytes are those of ``body`` (each of format ``B``) one after the other.

        Nothing is sent when one of that name and size is there. What an earlier call left unfinished is gone on with
        or removed, also if its process has ended. When ``stop`` is set, by another thread, it ends at the next part
        with a StoreError (``... stopped``), and nothing unfinished stays.
        """

    def get(self, run: str, name: str, buffer: memoryview, *, stop: threading.Event | None = None) -> None:
        """Fill ``buffer`` with the blob, which must be exactly as large; ``stop`` as of :meth:`put`."""

    def delete(self, run: str, name: str) -> None:
        """Delete one blob, if it is there."""

    def delete_run(self, run: str) -> None:
        """Delete all that the run has left, unfinished blobs too."""


@dataclass(frozen=True)
class StoreConfig:
    """Where a node keeps large bodies."""

    url: str
    min_bytes: int
    """Bytes; a larger body goes through the store, any other with its message."""


@dataclass(frozen=True)
class BodyStore:
    """A store that is open, and what goes there."""

    store: Store
    min_bytes: int
    """As of :class:`StoreConfig`."""


def open_store(url: str, min_bytes: int = 1_000_000, timeout: float = 60.0) -> BodyStore:
    """Large bodies of more than ``min_bytes`` bytes go through the store at ``url``, which is opened and tried.

    It is given up after ``timeout`` seconds without progress. Raises UsageError.
    """
    return BodyStore(open_backend(StoreConfig(url, min_bytes), timeout), min_bytes)


def open_backend(config: StoreConfig, timeout: float) -> Store:
    """The store, tried. Raises UsageError, which lists the schemes where there is none of that name."""
    scheme = parse_store_url(config.url).scheme
    known = registry.list_pieces("store")
    if scheme not in known:
        raise UsageError(f"{config.url}: no store is reached by {scheme}://; there are {', '.join(known)}")
    store: Store = registry.find_piece("store", scheme)(config.url, timeout)
    store.check_access()
    return store


def parse_store_url(url: str) -> SplitResult:
    """A store's URL, of scheme, host and path alone. Raises UsageError, which repeats nothing that may be secret."""
    like = "one looks like s3://bucket/prefix or file:///path"
    if "@" in url:
        raise UsageError("an @ in the URL of a store: a user or password belongs elsewhere, and in a path it is %40")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise UsageError(f"the URL of a store cannot be read; {like}") from None
    if not parts.scheme or parts.query or parts.fragment:
        what = "a URL with a ? or # in it" if parts.query or parts.fragment else repr(url)
        raise UsageError(f"{what} is no store; {like}")
    return parts


def build_blob_path(run: str, name: str | None = None) -> str:
    """Where in a store a blob is, or all of a run: ``RUN/NAME`` or ``RUN``. The one way to a path or key.

    Raises StoreError unless the run is 16 and the name 64 lower-case hex digits, since they may be a peer's texts.

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
    """The body in parts of :data:`PART_BYTES` bytes, the last of what remains; none of an empty one. Nothing is
    copied."""
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
