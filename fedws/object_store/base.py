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

PART = 2**23
"""Bytes of a large blob that are sent at once; what was interrupted goes on from the last whole part."""
_RUN = re.compile("[0-9a-f]{16}")
_NAME = re.compile("[0-9a-f]{64}")


class Store(Protocol):
    """A place for blobs, chosen by URL scheme. Factory: ``(url: str, patience: float)``, registered as ``store``.

    The factory raises UsageError for a URL that is none. Every method blocks, may be called in several threads at
    once, and ends after ``patience`` seconds without progress. All but ``check`` raise StoreError, whose text is one
    line that says what store it is and holds nothing secret; also where ``run`` or ``name`` are not as :func:`place`
    wants them.
    """

    def check(self) -> None:
        """Try all that the other methods need. Raises UsageError: a wrong setting is said before a run begins."""

    def put(self, run: str, name: str, body: Sequence[memoryview], *, stop: threading.Event | None = None) -> None:
        """Store the blob, whose bytes are those of ``body`` (each of format ``B``) one after the other.

        Nothing is sent when one of that name and size is there. What an earlier call left unfinished is gone on with
        or removed, also if its process has ended. When ``stop`` is set, by another thread, it ends at the next part
        with a StoreError (``... stopped``), and nothing unfinished stays.
        """

    def get(self, run: str, name: str, into: memoryview, *, stop: threading.Event | None = None) -> None:
        """Fill ``into`` with the blob, which must be exactly as large; ``stop`` as of :meth:`put`."""

    def drop(self, run: str, name: str) -> None:
        """Delete one blob, if it is there."""

    def clean(self, run: str) -> None:
        """Delete all that the run has left, unfinished blobs too."""


@dataclass(frozen=True)
class Setting:
    """Where a node keeps large bodies."""

    url: str
    above: int
    """Bytes; a larger body goes through the store, any other with its message."""


@dataclass(frozen=True)
class Shelf:
    """A store that is open, and what goes there."""

    store: Store
    above: int
    """As of :class:`Setting`."""


def shelf(url: str, above: int = 1_000_000, patience: float = 60.0) -> Shelf:
    """Large bodies of more than ``above`` bytes go through the store at ``url``, which is opened and tried.

    It is given up after ``patience`` seconds without progress. Raises UsageError.
    """
    return Shelf(opened(Setting(url, above), patience), above)


def opened(setting: Setting, patience: float) -> Store:
    """The store, tried. Raises UsageError, which lists the schemes where there is none of that name."""
    scheme = parsed(setting.url).scheme
    known = registry.names("store")
    if scheme not in known:
        raise UsageError(f"{setting.url}: no store is reached by {scheme}://; there are {', '.join(known)}")
    store: Store = registry.find("store", scheme)(setting.url, patience)
    store.check()
    return store


def parsed(url: str) -> SplitResult:
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


def place(run: str, name: str | None = None) -> str:
    """Where in a store a blob is, or all of a run: ``RUN/NAME`` or ``RUN``. The one way to a path or key.

    Raises StoreError unless the run is 16 and the name 64 lower-case hex digits, since they may be a peer's texts.

    >>> place("0123456789abcdef")
    '0123456789abcdef'
    """
    if not _RUN.fullmatch(run):
        raise StoreError("the run of a blob is not 16 hex digits")
    if name is None:
        return run
    if not _NAME.fullmatch(name):
        raise StoreError("the name of a blob is not 64 hex digits")
    return f"{run}/{name}"


def parts(body: Sequence[memoryview]) -> Iterator[list[memoryview]]:
    """The body in parts of :data:`PART` bytes, the last of what remains; none of an empty one. Nothing is copied."""
    part: list[memoryview] = []
    room = PART
    for view in body:
        while len(view):
            part.append(view[:room])
            view = view[room:]
            room -= len(part[-1])
            if not room:
                yield part
                part, room = [], PART
    if part:
        yield part
