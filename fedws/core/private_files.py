"""Private files and folders, which have the modes 0600 and 0700, independently of the umask.

The mode does not change if the file system does not support modes, or if the file belongs to another user.
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
    """Open a private file to write bytes; an existing file becomes private. Raises OSError."""
    return io.open(path, mode, opener=_open_private)  # noqa: UP020  # Path.open has no parameter opener


def open_text(path: Path, mode: Literal["w", "a", "x"], encoding: str = "utf-8") -> io.TextIOWrapper:
    """Open a private file to write text; an existing file becomes private. Raises OSError."""
    return io.open(path, mode, encoding=encoding, opener=_open_private)  # noqa: UP020


def create_empty_file(path: Path) -> None:
    """Create an empty private file, which a library then opens by its name. Raises OSError."""
    open_binary(path, "wb").close()


def create_dir(path: Path, *, parents: bool = False, exist_ok: bool = False) -> None:
    """Create a private folder. Raises OSError.

    The mode of its ``parents`` depends on the umask. An existing folder keeps its mode, which its owner chose.
    """
    try:
        path.mkdir(DIR_MODE, parents)
    except FileExistsError:
        if not exist_ok or not path.is_dir():
            raise
    else:
        restrict_mode(path, DIR_MODE)


def restrict_mode(path: Path | int, mode: int = FILE_MODE) -> None:
    """Set the mode of a file, which is given as a path or a handle, if the file system supports modes."""
    with contextlib.suppress(OSError):
        if os.stat(path).st_mode & 0o777 != mode:  # noqa: PTH116  # also accepts a handle
            os.chmod(path, mode)  # noqa: PTH101


def is_exposed(path: Path) -> bool:
    """Return whether the group or other users have access to a file or folder. Raises OSError.

    For a systemd credential the group's access does not count, because it represents an ACL of this service only.
    """
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    credential = bool(credentials) and path.is_relative_to(str(credentials))
    return bool(path.stat().st_mode & (_WORLD_BITS if credential else _GROUP_AND_WORLD_BITS))


def warn_if_exposed(name: str, path: Path) -> None:
    """Log a warning if other users have access to a file with a secret. Raises OSError.

    ``name`` is the name of the file in the warning.
    """
    if is_exposed(path):
        log.warning("%s is readable by other users of this machine; run chmod 600 %s", name, shlex.quote(str(path)))


def _open_private(path: str, flags: int) -> int:
    handle = os.open(path, flags, FILE_MODE)
    restrict_mode(handle)
    return handle
