"""The folder that data sets are in, and how one gets there when it is missing: once, however many nodes ask."""

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
"""Seconds that a download waits for a connection, and for each next piece."""

_socket_timeout_lock = threading.Lock()  # the default timeout of sockets is one per process


def resolve_data_dir(data_dir: str | None) -> Path:
    """Where data sets are: the folder given, else ``$FEDWS_DATA``, else the user's cache folder for fedws."""
    chosen = data_dir or os.environ.get("FEDWS_DATA")
    return Path(chosen).expanduser().absolute() if chosen else user_dirs.find_user_dir("cache", _data_dir_hint())


def download_once(
    root: Path, folder: str, title: str, is_present: Callable[[], bool], fetch: Callable[[Path], object]
) -> None:
    """See to it that ``present()`` holds; if it does not, ``fetch(place)`` makes ``place/folder`` and it moves to root.

    Of several nodes that ask at once, one downloads and the others wait for it and then find the files there. What
    is downloaded becomes visible in ``root/folder`` only once all of it has come. A file that is there already is
    kept. Raises UsageError, in one line, when ``root`` cannot be used or the download fails.
    """
    try:
        if is_present():
            return
        root.mkdir(parents=True, exist_ok=True)
        with _hold_file_lock(root / f".{folder}.lock", f"another node to download {title} to {root}"):
            if is_present():
                return
            part = root / f".{folder}.part"
            shutil.rmtree(part, ignore_errors=True)  # of a download that was killed
            part.mkdir()
            try:
                _download(root, part, title, fetch)
                _publish(part / folder, root / folder)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise UsageError(f"{root} cannot be used for {title}: {error.strerror or error}; {_data_dir_hint()}") from None
    if not is_present():
        raise UsageError(
            f"{title} was downloaded to {root}, but files are missing in {root / folder}; {_data_dir_hint()}"
        )


def _download(root: Path, staging: Path, title: str, fetch: Callable[[Path], object]) -> None:
    print(f"downloading {title} to {root}", file=sys.stderr, flush=True)
    try:
        with limit_socket_timeout(SOCKET_TIMEOUT_SECONDS):
            fetch(staging)
    except Exception as error:
        raise UsageError(
            f"{title} is not in {root} and cannot be downloaded ({_describe_error(error)}); {_data_dir_hint()}"
        ) from None


@contextlib.contextmanager
def limit_socket_timeout(seconds: float) -> Iterator[None]:
    """Let no new socket of this process wait longer, for a block; blocks take turns."""
    with _socket_timeout_lock:
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(seconds)
        try:
            yield
        finally:
            socket.setdefaulttimeout(before)


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
    """What an error says in its last line, without the wrapping that urllib adds."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = re.sub(r"^<urlopen error (.*)>$", r"\1", lines[-1])
    return re.sub(r"^\[Errno -?\d+\] ", "", text)


def _data_dir_hint() -> str:
    return "name a folder that has it with --data-dir or FEDWS_DATA, or use --dataset digits, which needs no download"
