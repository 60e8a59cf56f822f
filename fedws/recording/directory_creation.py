"""New directories for runs: one that is named and empty, or one of its own."""

import errno
import os
import re
import time
from itertools import count
from pathlib import Path

from fedws.core import private_files
from fedws.core.errors import UsageError

MAX_ALGORITHM_CHARS = 40
"""Characters of an algorithm that may be in a directory's name."""


def create_empty_directory(path: Path) -> list[Path]:
    """Make a directory, unless it is there and empty; gives those that were made. Raises UsageError."""
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        try:
            _create_directory(path)
        except FileExistsError:
            if not path.is_dir():
                raise
        if any(path.iterdir()):
            raise build_not_new_error(path, "is not empty")
    except FileExistsError:
        raise build_not_new_error(path, "is a file") from None
    except OSError as error:
        raise UsageError(f"--run-dir {path} cannot be written: {error.strerror or error}") from None
    return made


def create_unique_directory(algorithm: str, parent: Path = Path("runs")) -> Path:
    """Make a directory that no other run has, ``runs/<time>-<algorithm>``, and return its path. Raises UsageError.

    Making it is what claims the name, so two runs that start within one second get two directories.
    """
    algorithm = (
        algorithm if len(algorithm) <= MAX_ALGORITHM_CHARS else algorithm.partition(":")[0]
    )  # plan.toml has all of it
    name = time.strftime("%Y%m%d-%H%M%S-") + re.sub(r"[^A-Za-z0-9.=]+", "-", algorithm)
    for number in count(1):
        path = parent / (name if number == 1 else f"{name}-{number}")
        try:
            _create_directory(path)
        except FileExistsError:
            continue
        except OSError as error:
            raise UsageError(f"{path} cannot be made: {error.strerror or error}; name a --run-dir elsewhere") from None
        return path
    raise AssertionError  # count() does not end


def _create_directory(path: Path) -> None:
    """Make a directory that does not exist, and its parents. Raises FileExistsError when it exists, or OSError.

    A run that never began removes the parents that it made, maybe between the two steps here; then both follow again.
    """
    for left in reversed(range(100)):
        try:
            _create_parent(path.parent)
            private_files.create_dir(path)
        except FileNotFoundError:
            if not left:
                raise
        else:
            return


def _create_parent(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:  # a file, or a link to nothing
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None


def build_not_new_error(path: Path, problem: str) -> UsageError:
    """Return the error for a directory that a new run cannot use."""
    return UsageError(f"--run-dir {path} {problem}; name a new or an empty directory")
