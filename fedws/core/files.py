"""What is on the disk, and stays there when the power goes."""

import errno
import os
from pathlib import Path

from fedws.core import private_files


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


def atomic_write(path: Path, data: bytes) -> None:
    """Write a private file whole or not at all; when this returns it is on the disk. Raises OSError."""
    part = path.with_name(f"{path.name}.part")
    try:
        with private_files.open_binary(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        fsync_dir(path.parent)
    except OSError:
        part.unlink(missing_ok=True)
        raise
