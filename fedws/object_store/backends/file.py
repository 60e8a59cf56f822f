"""The store ``file:///PATH``, which keeps blobs in a shared directory, such as one of a network file system."""

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
from fedws.core.errors import BlobMissing, StoreError, UsageError
from fedws.core.registry import register
from fedws.object_store.base import PART_BYTES, build_blob_path, parse_store_url, split_into_parts
from fedws.object_store.watchdog import Progress, run_with_watchdog

T = TypeVar("T")


@register("store", "file")
class FileStore:
    """A store that keeps blobs in a directory. See ``fedws.object_store.base.Store``.

    Only the user can read the files (mode 0600) and the directories of runs (mode 0700).
    """

    def __init__(self, url: str, timeout: float) -> None:
        found = parse_store_url(url)
        path = unquote(found.path)
        if found.netloc or not path.startswith("/") or "\0" in path:
            raise UsageError(f"{url!r} is not a valid URL of a directory; use the form file:///ABSOLUTE/PATH")
        self._url, self._folder, self._timeout = url, Path(path), timeout

    def check_access(self) -> None:
        """Raise UsageError if the directory does not exist or is not writable."""
        try:
            self._run(self._check_writable)
        except StoreError as error:
            raise UsageError(str(error)) from None

    def _check_writable(self, progress: Progress) -> None:
        if not self._folder.is_dir():
            raise StoreError(f"{self._url}: directory not found")
        try:
            with tempfile.NamedTemporaryFile(dir=self._folder, prefix="check-"):
                pass
        except OSError as error:
            raise StoreError(f"{self._url}: directory is not writable: {error.strerror}") from None

    def put(self, run: str, name: str, body: Sequence[memoryview], *, stop: threading.Event | None = None) -> None:
        """Write a complete file or none. The file is synced to disk when this method returns."""
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
            with unfinished.open("wb") as stream:
                for part in split_into_parts(body):
                    progress.raise_if_cancelled()
                    stream.writelines(part)
                    stream.flush()
                    os.fsync(stream.fileno())
                    progress.mark_progress()
            progress.raise_if_cancelled()

    def _delete_unfinished(self, file: Path, temporary: Path) -> None:
        """Delete temporary files of the same blob that did not change for the time of the timeout.

        Their writers have ended. Both times come from the file system, so that no two clocks are compared.
        """
        now = temporary.stat().st_mtime
        for other in file.parent.glob(f"{file.name}.*{PART_SUFFIX}"):
            try:
                if other.stat().st_mtime < now - self._timeout:
                    other.unlink()
            except FileNotFoundError:
                pass  # its writer has finished in the meantime

    def get(self, run: str, name: str, buffer: memoryview, *, stop: threading.Event | None = None) -> None:
        """Read a file into ``buffer``."""
        file = self._folder / build_blob_path(run, name)
        self._run(lambda progress: self._read(file, buffer, progress), stop)

    def _read(self, file: Path, buffer: memoryview, progress: Progress) -> None:
        size = _get_size(file)
        if size != len(buffer):
            if size is None:
                raise BlobMissing(f"{self._url}: blob {file.name} not found")
            raise StoreError(f"{self._url}: blob {file.name} has {size} bytes, expected {len(buffer)}")
        with file.open("rb", buffering=0) as stream:
            offset = 0
            while offset < len(buffer):
                progress.raise_if_cancelled()
                count = stream.readinto(buffer[offset : offset + PART_BYTES])
                if not count:
                    raise StoreError(f"{self._url}: blob {file.name} ends after {offset} of {len(buffer)} bytes")
                offset += count
                progress.mark_progress()

    def delete(self, run: str, name: str) -> None:
        """Delete a file, if it exists."""
        file = self._folder / build_blob_path(run, name)
        self._run(lambda progress: file.unlink(missing_ok=True))

    def delete_run(self, run: str) -> None:
        """Delete the directory of the run. Another node may delete it at the same time."""
        folder = self._folder / build_blob_path(run)

        def remove(progress: Progress) -> None:
            shutil.rmtree(folder, ignore_errors=True)
            if folder.exists():
                raise StoreError(f"{self._url}: cannot delete directory {folder.name}")

        self._run(remove)

    def _run(self, work: Callable[[Progress], T], stop: threading.Event | None = None) -> T:
        try:
            return run_with_watchdog(work, self._timeout, self._url, stop)
        except OSError as error:
            raise StoreError(f"{self._url}: {error.strerror or type(error).__name__}") from None


def _get_size(file: Path) -> int | None:
    """Return the size of a blob in bytes, or None if it does not exist."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return None
