"""The directory of a run: one coordinator's at a time, and the place from which the run can go on."""

import contextlib
import errno
import json
import logging
import math
import os
import re
import secrets
import shlex
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any, Self

import filelock
import tomli_w

from fedws.core import private_files
from fedws.core.atomic_files import atomic_write
from fedws.core.errors import UsageError
from fedws.core.plan import Plan, build_plan, read_plan_file
from fedws.recording import stored_records

log = logging.getLogger("fedws")
RUN_FORMAT = 2
"""Format of ``run.json`` and the files beside it; no other is read."""
_LOCK_FILE = ".lock"
_SECRET_PATTERN = re.compile("[0-9a-f]{64}")
MAX_ALGORITHM_CHARS = 40
"""Characters of an algorithm that may be in a directory's name."""


class RunDirectory:
    """A directory that this process holds until :meth:`close`."""

    def __init__(self, path: Path, lock: filelock.BaseFileLock, created: Sequence[Path]) -> None:
        self.path = path
        self._lock = lock
        self._created = created
        self._run_info: dict[str, Any] = {}
        self.retained = False
        """Whether the directory stays when it is given back."""

    @classmethod
    def create(cls, path: Path) -> Self:
        """Take a new or empty directory. Raises UsageError."""
        return cls._claim(path, create_empty_directory(path))

    @classmethod
    def create_unique(cls, algorithm: str, parent: Path = Path("runs")) -> Self:
        """Take a directory of its own for a run with this algorithm, see :func:`create_unique_directory`. Raises
        UsageError."""
        made = [folder for folder in (parent, *parent.parents) if not folder.exists()]
        path = create_unique_directory(algorithm, parent)
        return cls._claim(path, [path, *made])

    @classmethod
    def _claim(cls, path: Path, created: Sequence[Path]) -> Self:
        found = cls(path, _acquire_lock(path, "--run-dir"), created)
        try:
            private_files.open_text(
                path / "run.log", "x"
            ).close()  # no other run takes the directory while this one waits for its workers
        except FileExistsError:
            raise _not_new_error(path, "was taken by another run just now") from None
        except OSError as error:
            raise UsageError(f"--run-dir {path} cannot be written: {error.strerror or error}") from None
        return found

    @classmethod
    def open_existing(cls, path: Path) -> Self:
        """Take the directory of a run that is to go on. Raises UsageError when there is none, or it cannot."""
        _read_run_info(path)  # a directory that is no run's gets no lock
        found = cls(path, _acquire_lock(path, "--resume"), [])
        found._run_info = _read_run_info(path)
        found.retained = True
        return found

    @property
    def plan(self) -> Plan:
        """The plan that it began with. Raises UsageError where ``run.json`` holds none."""
        try:
            return build_plan(dict(self._run_info["plan"]))
        except UsageError as error:
            raise UsageError(f"--resume {self.path}: run.json: {error}") from None

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return bool(self._run_info.get("finished"))

    @property
    def secret(self) -> bytes:
        """Secret of the run, 32 bytes, never sent; :meth:`begin` makes it. Its keys can take the run's nodes over."""
        return bytes.fromhex(self._run_info["secret"])

    def begin(self, plan: Plan) -> str:
        """Write the plan of a run that starts or continues; return the run's public id."""
        run_id = self._run_info.get("run_id") or secrets.token_hex(8)
        secret = self._run_info.get("secret") or secrets.token_hex(32)  # a run of an earlier version has none
        atomic_write(self.path / "plan.toml", tomli_w.dumps(plan.model_dump()).encode())
        # without what is infinite, as a deadline by default, which JSON has not
        settings = {name: value for name, value in plan.model_dump().items() if value != math.inf}
        run_info = {"format": RUN_FORMAT, "run_id": run_id, "secret": secret, "finished": False, "plan": settings}
        self._write_run_info(run_info)
        return str(run_id)

    def retain(self) -> None:
        """From now on there is something to go on with, whatever ends the run."""
        self.retained = True

    def mark_finished(self) -> None:
        """Write that the run has come to its end."""
        self._write_run_info({**self._run_info, "finished": True})

    def close(self) -> None:
        """Give the directory back; one in which nothing began is removed again, as far as it was made here."""
        with contextlib.suppress(OSError):
            (self.path / _LOCK_FILE).unlink(missing_ok=True)
        self._lock.release()
        if not self.retained:
            with contextlib.suppress(OSError):  # another run may have come to use the parent
                for name in ("plan.toml", "run.json", "run.log"):
                    (self.path / name).unlink(missing_ok=True)
                for folder in self._created:
                    folder.rmdir()

    def _write_run_info(self, run_info: dict[str, Any]) -> None:
        self._run_info = run_info
        atomic_write(self.path / "run.json", f"{json.dumps(run_info)}\n".encode())


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
            raise _not_new_error(path, "is not empty")
    except FileExistsError:
        raise _not_new_error(path, "is a file") from None
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


def _not_new_error(path: Path, problem: str) -> UsageError:
    return UsageError(f"--run-dir {path} {problem}; name a new or an empty directory")


def load_plan_settings(path: Path) -> dict[str, Any]:
    """What the plan of a run that is to go on says now. Raises UsageError when there is no such run."""
    _read_run_info(path)
    try:
        return read_plan_file(path / "plan.toml")
    except UsageError as error:
        raise UsageError(f"--resume {path}: {str(error).removeprefix('--plan ')}") from None


def finished_rounds(path: Path) -> int:
    """Return the rounds of a run that has finished, or 0 for another run. Raises UsageError when there is no run."""
    run_info = _read_run_info(path)
    return build_plan(run_info["plan"]).rounds if run_info["finished"] else 0


def _read_run_info(path: Path) -> dict[str, Any]:
    """What ``run.json`` says. Raises UsageError."""
    if not path.is_dir():
        raise UsageError(f"--resume {path}: there is no such directory")
    try:
        run_info = json.loads((path / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        what = "is empty" if not any(path.iterdir()) else "holds no run that had begun (no run.json)"
        raise UsageError(f"--resume {path}: the directory {what}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"--resume {path}: run.json cannot be read: {error}") from None
    number = run_info.get("format") if isinstance(run_info, dict) else None
    if isinstance(number, int) and number > RUN_FORMAT:
        raise UsageError(f"--resume {path}: it is of a newer fedws (format {number}; this one reads {RUN_FORMAT})")
    if isinstance(number, int) and 0 < number < RUN_FORMAT and {"run", "finished", "plan"} <= run_info.keys():
        what = f"it was written by an older fedws (format {number}; this one reads {RUN_FORMAT})"
        raise UsageError(f"--resume {path}: {what}; resume it with that version")
    secret = (
        run_info.get("secret", "0" * 64) if isinstance(run_info, dict) else None
    )  # a run of an earlier version has none
    whole = isinstance(secret, str) and _SECRET_PATTERN.fullmatch(secret)
    if number != RUN_FORMAT or not whole or not {"run_id", "finished", "plan"} <= run_info.keys():
        raise UsageError(f"--resume {path}: run.json is not one of fedws")
    if problem := stored_records.run_info_problem(run_info):
        raise UsageError(f"--resume {path}: run.json cannot be used: {problem}")
    return dict(run_info)


def _acquire_lock(path: Path, flag: str) -> filelock.BaseFileLock:
    lock = filelock.FileLock(path / _LOCK_FILE, mode=private_files.FILE_MODE)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise UsageError(f"{flag} {path} is in use by another coordinator") from None
    except OSError as error:
        raise UsageError(f"{flag} {path} cannot be written: {error.strerror or error}") from None
    if private_files.is_exposed(
        path
    ):  # its owner made it so, maybe for a group that shares it; the files in it are private
        log.warning("%s %s is open to other users of this machine: chmod -R go= %s", flag, path, shlex.quote(str(path)))
    return lock
