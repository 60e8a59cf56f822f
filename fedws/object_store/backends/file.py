"""``file:///path``: blobs in a directory that the nodes share, as of a network file system."""

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

from fedws.core.errors import StoreError, UsageError
from fedws.core.files import sync
from fedws.core.registry import register
from fedws.object_store.base import PART, parsed, parts, place
from fedws.object_store.watchdog import Progress, bounded

T = TypeVar("T")
_UNFINISHED = ".part"


@register("store", "file")
class FileStore:
    """See :class:`fedws.object_store.base.Store`. Files are for the user's own eyes (mode 0600, in folders of 0700)."""

    def __init__(self, url: str, patience: float) -> None:
        found = parsed(url)
        path = unquote(found.path)
        if found.netloc or not path.startswith("/") or "\0" in path:
            raise UsageError(f"{url!r} is no folder; one looks like file:///path, an absolute path")
        self._url, self._folder, self._patience = url, Path(path), patience

    def check(self) -> None:
        """Raises UsageError unless it is a folder that can be written."""
        try:
            self._bounded(self._try)
        except StoreError as error:
            raise UsageError(str(error)) from None

    def _try(self, progress: Progress) -> None:
        if not self._folder.is_dir():
            raise StoreError(f"{self._url}: there is no such folder")
        try:
            with tempfile.NamedTemporaryFile(dir=self._folder, prefix="check-"):
                pass
        except OSError as error:
            raise StoreError(f"{self._url}: cannot be written: {error.strerror}") from None

    def put(self, run: str, name: str, body: Sequence[memoryview], *, stop: threading.Event | None = None) -> None:
        """Write a file whole or not at all; when this returns it is on the disk."""
        file = self._folder / place(run, name)
        self._bounded(lambda progress: self._write(file, body, progress), stop)

    def _write(self, file: Path, body: Sequence[memoryview], progress: Progress) -> None:
        size = sum(map(len, body))
        if _size(file) == size:
            return
        if not file.parent.is_dir():
            file.parent.mkdir(mode=0o700, exist_ok=True)
            sync(self._folder)
        handle, path = tempfile.mkstemp(_UNFINISHED, f"{file.name}.", file.parent)
        own = Path(path)
        try:
            with os.fdopen(handle, "wb") as writing:
                self._forget_unfinished(file, own)
                for part in parts(body):
                    progress.check()
                    writing.writelines(part)
                    writing.flush()
                    os.fsync(writing.fileno())
                    progress.step()
            progress.check()
            own.replace(file)
        except BaseException:
            own.unlink(missing_ok=True)
            raise
        sync(file.parent)

    def _forget_unfinished(self, file: Path, own: Path) -> None:
        """Delete what writers of this blob left that have ended: what has not grown for the time of our patience.

        Both times are the file system's own, so that no two clocks are compared.
        """
        now = own.stat().st_mtime
        for other in file.parent.glob(f"{file.name}.*{_UNFINISHED}"):
            try:
                if other.stat().st_mtime < now - self._patience:
                    other.unlink()
            except FileNotFoundError:
                pass  # its writer has come to an end meanwhile

    def get(self, run: str, name: str, into: memoryview, *, stop: threading.Event | None = None) -> None:
        """Read a file."""
        file = self._folder / place(run, name)
        self._bounded(lambda progress: self._read(file, into, progress), stop)

    def _read(self, file: Path, into: memoryview, progress: Progress) -> None:
        size = _size(file)
        if size != len(into):
            what = "is not there" if size is None else f"has {size} bytes there and not {len(into)}"
            raise StoreError(f"{self._url}: blob {file.name} {what}")
        with file.open("rb", buffering=0) as reading:
            have = 0
            while have < len(into):
                progress.check()
                count = reading.readinto(into[have : have + PART])
                if not count:
                    raise StoreError(f"{self._url}: blob {file.name} ends after {have} bytes of {len(into)}")
                have += count
                progress.step()

    def drop(self, run: str, name: str) -> None:
        """Delete a file."""
        file = self._folder / place(run, name)
        self._bounded(lambda progress: file.unlink(missing_ok=True))

    def clean(self, run: str) -> None:
        """Delete the run's folder; another node may do so too at this moment."""
        folder = self._folder / place(run)

        def remove(progress: Progress) -> None:
            shutil.rmtree(folder, ignore_errors=True)
            if folder.exists():
                raise StoreError(f"{self._url}: {folder.name} cannot be deleted")

        self._bounded(remove)

    def _bounded(self, work: Callable[[Progress], T], stop: threading.Event | None = None) -> T:
        try:
            return bounded(work, self._patience, self._url, stop)
        except OSError as error:
            raise StoreError(f"{self._url}: {error.strerror or type(error).__name__}") from None


def _size(file: Path) -> int | None:
    """Of a blob; None when there is none."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return None
