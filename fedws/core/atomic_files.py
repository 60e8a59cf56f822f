"""Atomic writing of files: a file is written completely or not at all, and is on the disk when the function returns."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fedws.core import private_files

PART_SUFFIX = ".part"
"""Suffix of the names of unfinished files."""


def fsync_dir(directory: Path) -> None:
    """Wait until the entries of a directory are on the disk. Raises OSError."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems do not support this, and do not need it
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def atomic_file(path: Path, *, shared: bool = False, exclusive: bool = False) -> Iterator[Path]:
    """Create a private, empty file next to ``path``, and rename it to ``path`` after the block.

    When the context ends, the file is on the disk. If the block raises, the file is removed and ``path`` does not
    change. The name of the file is ``path`` followed by ``.part``, so a file that a killed process left is overwritten
    by the next process.

    With ``shared``, several processes can write ``path`` at the same time. Each one uses another name, and the last
    file remains. With ``exclusive``, the first file remains, and FileExistsError is raised in the other processes.

    Raises OSError.
    """
    if shared or exclusive:
        handle, name = tempfile.mkstemp(PART_SUFFIX, f"{path.name}.", path.parent)  # its mode is 0600
        os.close(handle)
        part = Path(name)
    else:
        part = path.with_name(path.name + PART_SUFFIX)
        private_files.create_empty_file(part)
    try:
        yield part
        private_files.restrict_mode(part)  # a library may have replaced the file
        with part.open("rb") as file:
            os.fsync(file.fileno())
        if exclusive:
            path.hardlink_to(part)
        else:
            part.replace(path)
        fsync_dir(path.parent)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def atomic_write(path: Path, data: bytes) -> None:
    """Write a private file atomically; it is on the disk when the function returns. Raises OSError."""
    with atomic_file(path) as part:
        part.write_bytes(data)
