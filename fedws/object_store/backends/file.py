"""``file:///path``: blobs in a directory that the nodes share, as of a network file system."""

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

from fedws.core import private_files
from fedws.core.atomic_files import PART_SUFFIX, atomic_file, fsync_dir
from fedws.core.errors import StoreError, UsageError
from fedws.core.registry import register
from fedws.object_store.base import PART_BYTES, build_blob_path, parse_store_url, split_into_parts
from fedws.object_store.watchdog import Progress, run_with_watchdog

T = TypeVar("T")


@register("store", "file")
class FileStore:
    """See :class:`fedws.object_store.base.Store`. Files are for the user's own eyes (mode 0600, in folders of 0700)."""

    def __init__(self, url: str, timeout: float) -> None:
        found = parse_store_url(url)
        path = unquote(found.path)
        if found.netloc or not path.startswith("/") or "\0" in path:
            raise UsageError(f"{url!r} is no folder; one looks like file:///path, an absolute path")
        self._url, self._folder, self._timeout = url, Path(path), timeout

    def check_access(self) -> None:
        """Raises UsageError unless it is a folder that can be written."""
        try:
            self._run(self._check_writable)
        except StoreError as error:
            raise UsageError(str(error)) from None

    def _check_writable(self, progress: Progress) -> None:
        if not self._folder.is_dir():
            raise StoreError(f"{self._url}: there is no such folder")
        try:
            with tempfile.NamedTemporaryFile(dir=self._folder, prefix="check-"):
                pass
        except OSError as error:
            raise StoreError(f"{self._url}: cannot be written: {error.strerror}") from None

    def put(self, run: str, name: str, body: Sequence[memoryview], *, stop: threading.Event | None = None) -> None:
        """Write a file whole or not at all; when this returns it is on the disk."""
        file = self._folder / build_blob_path(run, name)
        self._run(lambda progress: self._write(file, body, progress), stop)

    def _write(self, file: Path, body: Sequence[memoryview], progress: Progress) -> None:
        size = sum(map(len, body))
        if _get_size(file) == size:
            return
        if not file.parent.is_dir():
            private_files.create_dir(file.parent, exist_ok=True)
            fsync_dir(self._folder)
        with atomic_file(file, shared=True) as unfinished:
            self._delete_unfinished(file, unfinished)
            with unfinished.open("wb") as writing:
                for part in split_into_parts(body):
                    progress.raise_if_cancelled()
                    writing.writelines(part)
                    writing.flush()
                    os.fsync(writing.fileno())
                    progress.mark_progress()
            progress.raise_if_cancelled()

    def _delete_unfinished(self, file: Path, temporary: Path) -> None:
        """Delete what writers of this blob left that have ended: what has not grown for the time of our patience.

        Both times are the file system's own, so that no two clocks are compared.
        """
        now = temporary.stat().st_mtime
        for other in file.parent.glob(f"{file.name}.*{PART_SUFFIX}"):
            try:
                if other.stat().st_mtime < now - self._timeout:
                    other.unlink()
            except FileNotFoundError:
                pass  # its writer has come to an end meanwhile

    def get(self, run: str, name: str, buffer: memoryview, *, stop: threading.Event | None = None) -> None:
        """Read a file."""
        file = self._folder / build_blob_path(run, name)
        self._run(lambda progress: self._read(file, buffer, progress), stop)

    def _read(self, file: Path, buffer: memoryview, progress: Progress) -> None:
        size = _get_size(file)
        if size != len(buffer):
            what = "is not there" if size is None else f"has {size} bytes there and not {len(buffer)}"
            raise StoreError(f"{self._url}: blob {file.name} {what}")
        with file.open("rb", buffering=0) as reading:
            have = 0
            while have < len(buffer):
                progress.raise_if_cancelled()
                count = reading.readinto(buffer[have : have + PART_BYTES])
                if not count:
                    raise StoreError(f"{self._url}: blob {file.name} ends after {have} bytes of {len(buffer)}")
                have += count
                progress.mark_progress()

    def delete(self, run: str, name: str) -> None:
        """Delete a file."""
        file = self._folder / build_blob_path(run, name)
        self._run(lambda progress: file.unlink(missing_ok=True))

    def delete_run(self, run: str) -> None:
        """Delete the run's folder; another node may do so too at this moment."""
        folder = self._folder / build_blob_path(run)

        def remove(progress: Progress) -> None:
            shutil.rmtree(folder, ignore_errors=True)
            if folder.exists():
                raise StoreError(f"{self._url}: {folder.name} cannot be deleted")

        self._run(remove)

    def _run(self, work: Callable[[Progress], T], stop: threading.Event | None = None) -> T:
        try:
            return run_with_watchdog(work, self._timeout, self._url, stop)
        except OSError as error:
            raise StoreError(f"{self._url}: {error.strerror or type(error).__name__}") from None


def _get_size(file: Path) -> int | None:
    """Of a blob; None when there is none."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return None
