"""The folder of the data sets, and the download of a missing data set, which happens once even for several nodes."""

import contextlib
import os
import re
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from fedws.core import user_dirs
from fedws.core.errors import UsageError

SOCKET_TIMEOUT_SECONDS = 10.0
"""Timeout in seconds of a download, for the connection and for each read."""

_socket_timeout_lock = threading.Lock()  # all threads share the default timeout of sockets


def resolve_data_dir(data_dir: str | None) -> Path:
    """Return the folder of the data sets: ``data_dir``, or else ``$FEDWS_DATA``, or else the user's cache folder.

    Raises UsageError if the user has no home directory for a cache folder.
    """
    chosen = data_dir or os.environ.get("FEDWS_DATA")
    return Path(chosen).expanduser().absolute() if chosen else user_dirs.find_user_dir("cache", _data_dir_hint())


def download_once(
    root: Path, folder: str, title: str, is_present: Callable[[], bool], fetch: Callable[[Path], object]
) -> None:
    """Download a data set to ``root/folder`` unless ``is_present()`` returns True.

    ``fetch(staging)`` must create ``staging/folder``, whose files are then moved to ``root/folder``. They are only
    moved after the download is complete. Existing files are kept. If several nodes call this function at the same
    time, one of them downloads, and the others wait and then use its files.

    Raises UsageError if ``root`` cannot be used, if the download fails, or if files are missing afterwards.
    """
    try:
        if is_present():
            return
        root.mkdir(parents=True, exist_ok=True)
        with _hold_file_lock(root / f".{folder}.lock", f"another node to download {title} to {root}"):
            if is_present():
                return
            part = root / f".{folder}.part"
            shutil.rmtree(part, ignore_errors=True)  # a killed download may have left it
            part.mkdir()
            try:
                _download(root, part, title, fetch)
                _publish(part / folder, root / folder)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise UsageError(f"cannot use {root} for {title}: {error.strerror or error}; {_data_dir_hint()}") from None
    if not is_present():
        raise UsageError(f"{title} was downloaded to {root}, but {root / folder} is incomplete; {_data_dir_hint()}")


def _download(root: Path, staging: Path, title: str, fetch: Callable[[Path], object]) -> None:
    print(f"downloading {title} to {root}", file=sys.stderr, flush=True)
    try:
        with limit_socket_timeout(SOCKET_TIMEOUT_SECONDS):
            fetch(staging)
    except Exception as error:
        raise UsageError(
            f"{title} not found in {root}, and the download failed ({_describe_error(error)}); {_data_dir_hint()}"
        ) from None


@contextlib.contextmanager
def limit_socket_timeout(seconds: float) -> Iterator[None]:
    """Set the default timeout of new sockets of this process for a block; only one thread can be in such a block."""
    with _socket_timeout_lock:
        previous = socket.getdefaulttimeout()
        socket.setdefaulttimeout(seconds)
        try:
            yield
        finally:
            socket.setdefaulttimeout(previous)


@contextlib.contextmanager
def _hold_file_lock(path: Path, waiting_for: str) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"waiting for {waiting_for}", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _publish(staging: Path, folder: Path) -> None:
    for source in sorted(path for path in staging.rglob("*") if path.is_file()):
        target = folder / source.relative_to(staging)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            source.replace(target)


def _describe_error(error: Exception) -> str:
    """Return the last line of the text of an error, without the prefix that urllib adds."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = re.sub(r"^<urlopen error (.*)>$", r"\1", lines[-1])
    return re.sub(r"^\[Errno -?\d+\] ", "", text)


def _data_dir_hint() -> str:
    return "set --data-dir or FEDWS_DATA to a folder with the data, or use --dataset digits, which needs no download"
