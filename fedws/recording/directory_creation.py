"""Creation of run directories, with a given or a generated name."""

import errno
import os
import re
import time
from itertools import count
from pathlib import Path

from fedws.core import private_files
from fedws.core.errors import UsageError

MAX_ALGORITHM_CHARS = 40
"""Maximum number of characters of an algorithm in the name of a directory."""


def create_empty_directory(path: Path) -> list[Path]:
    """Create a directory unless it exists and is empty, and return the created directories.

    Missing parents are created too; the innermost directory comes first. Raises UsageError if the directory is not
    empty or cannot be created.
    """
    created = [folder for folder in (path, *path.parents) if not folder.exists()]
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
        raise UsageError(f"cannot write --run-dir {path}: {error.strerror or error}; choose another") from None
    return created


def create_unique_directory(algorithm: str, parent: Path = Path("runs")) -> Path:
    """Create a directory ``runs/<time>-<algorithm>`` that no other run has, and return its path.

    Creating the directory claims its name, so two runs that start within the same second get two directories. Raises
    UsageError if the directory cannot be created.
    """
    if len(algorithm) > MAX_ALGORITHM_CHARS:  # plan.toml has the full text
        algorithm = algorithm.partition(":")[0]
    name = time.strftime("%Y%m%d-%H%M%S-") + re.sub(r"[^A-Za-z0-9.=]+", "-", algorithm)
    for number in count(1):
        path = parent / (name if number == 1 else f"{name}-{number}")
        try:
            _create_directory(path)
        except FileExistsError:
            continue
        except OSError as error:
            raise UsageError(f"cannot create {path}: {error.strerror or error}; choose another --run-dir") from None
        return path
    raise AssertionError  # count() does not end


def _create_directory(path: Path) -> None:
    """Create a directory that does not exist, and its parents.

    A run that never began removes the parents that it created. If this happens between the two steps here, both are
    repeated. Raises FileExistsError if the directory exists, and OSError if it cannot be created.
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
    except FileExistsError:  # a file or a dangling link
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None


def build_not_new_error(path: Path, problem: str) -> UsageError:
    """Return the error for a directory that a new run cannot use because of ``problem``."""
    return UsageError(f"--run-dir {path} {problem}; choose a new or an empty directory")
