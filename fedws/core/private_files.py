"""Files and folders that only this user can use: modes 0600 and 0700, whatever the umask.

A file system without modes keeps its own, and so does a file of another user.
"""

import contextlib
import io
import logging
import os
import shlex
from pathlib import Path
from typing import Literal

log = logging.getLogger("fedws")
FILE_MODE, DIR_MODE = 0o600, 0o700
_GROUP_AND_WORLD_BITS, _WORLD_BITS = 0o077, 0o007


def open_binary(path: Path, mode: Literal["wb", "ab", "xb"]) -> io.BufferedWriter:
    """Open a private file to write bytes; one that exists becomes private. Raises OSError."""
    return io.open(path, mode, opener=_open_private)  # noqa: UP020  # pathlib has no opener


def open_text(path: Path, mode: Literal["w", "a", "x"], encoding: str = "utf-8") -> io.TextIOWrapper:
    """Open a private file to write text, as :func:`open_binary`. Raises OSError."""
    return io.open(path, mode, encoding=encoding, opener=_open_private)  # noqa: UP020


def create_empty_file(path: Path) -> None:
    """Make an empty private file, for a library that then opens it by its name. Raises OSError."""
    open_binary(path, "wb").close()


def create_dir(path: Path, *, parents: bool = False, exist_ok: bool = False) -> None:
    """Make a private folder; its ``parents`` get the mode that the umask gives.

    One that exists keeps its mode: its owner chose it. Raises OSError.
    """
    try:
        path.mkdir(DIR_MODE, parents)
    except FileExistsError:
        if not exist_ok or not path.is_dir():
            raise
    else:
        restrict_mode(path, DIR_MODE)


def restrict_mode(path: Path | int, mode: int = FILE_MODE) -> None:
    """Set the mode of a file, or of a handle, if it is another one and the file system has modes."""
    with contextlib.suppress(OSError):
        if os.stat(path).st_mode & 0o777 != mode:  # noqa: PTH116  # of a handle too
            os.chmod(path, mode)  # noqa: PTH101


def is_exposed(path: Path) -> bool:
    """Return whether the group or others have rights to a file or folder. Raises OSError.

    The group's rights to a credential of systemd do not count: there, they stand for an ACL of this service alone.
    """
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    credential = bool(credentials) and path.is_relative_to(str(credentials))
    return bool(path.stat().st_mode & (_WORLD_BITS if credential else _GROUP_AND_WORLD_BITS))


def warn_if_exposed(name: str, path: Path) -> None:
    """Log a line about a file with a secret that is :func:`is_exposed`; ``name`` is what the line calls it."""
    if is_exposed(path):
        log.warning("%s can be read by other users of this machine: chmod 600 %s", name, shlex.quote(str(path)))


def _open_private(path: str, flags: int) -> int:
    handle = os.open(path, flags, FILE_MODE)
    restrict_mode(handle)
    return handle
