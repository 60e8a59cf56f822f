"""Files that are written whole or not at all, and are on the disk when the writer returns."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fedws.core import private_files

PART_SUFFIX = ".part"
"""End of the name of a file that is being written."""


def fsync_dir(directory: Path) -> None:
    """Wait until a directory's entries are on the disk. Raises OSError."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot, and need not
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def atomic_file(path: Path, *, shared: bool = False, exclusive: bool = False) -> Iterator[Path]:
    """Give a private, empty file beside ``path``; when the block ends it is on the disk under the name ``path``.

    When the block raises, the file is removed and ``path`` stays as it was. Its name is ``path`` and ``.part``, so that
    what a killed process left is replaced by the next. With ``shared``, several processes may write ``path`` at once:
    each has a name of its own, and the last one stays. With ``exclusive`` the first one stays, and FileExistsError is
    raised for the others. Raises OSError.
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
        private_files.restrict_mode(part)  # a library may have made a file of its own
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
    """Write a private file whole or not at all; when this returns it is on the disk. Raises OSError."""
    with atomic_file(path) as part:
        part.write_bytes(data)
