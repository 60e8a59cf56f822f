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
from fedws.core.errors import UsageError
from fedws.core.plan import Plan, make, read
from fedws.recording import stored_records
from fedws.recording.run_log import write_text

log = logging.getLogger("fedws")
FORMAT = 1
"""Of ``run.json`` and what it goes with; a newer one is not read."""
_LOCK = ".lock"
_SECRET = re.compile("[0-9a-f]{64}")
LONGEST_NAME = 40
"""Characters of a strategy that may be in a directory's name."""


class RunDirectory:
    """A directory that this process holds until :meth:`close`."""

    def __init__(self, path: Path, lock: filelock.BaseFileLock, made: Sequence[Path]) -> None:
        self.path = path
        self._lock = lock
        self._made = made
        self._story: dict[str, Any] = {}
        self.kept = False
        """Whether the directory stays when it is given back."""

    @classmethod
    def new(cls, path: Path) -> Self:
        """Take a new or empty directory. Raises UsageError."""
        return cls._taken(path, empty(path))

    @classmethod
    def named(cls, strategy: str, parent: Path = Path("runs")) -> Self:
        """Take a directory of its own for a run with this strategy, see :func:`new_directory`. Raises UsageError."""
        made = [folder for folder in (parent, *parent.parents) if not folder.exists()]
        path = new_directory(strategy, parent)
        return cls._taken(path, [path, *made])

    @classmethod
    def _taken(cls, path: Path, made: Sequence[Path]) -> Self:
        found = cls(path, _locked(path, "--run-dir"), made)
        try:
            private_files.text(
                path / "run.log", "x"
            ).close()  # no other run takes the directory while this one waits for its workers
        except FileExistsError:
            raise _not_new(path, "was taken by another run just now") from None
        except OSError as error:
            raise UsageError(f"--run-dir {path} cannot be written: {error.strerror or error}") from None
        return found

    @classmethod
    def old(cls, path: Path) -> Self:
        """Take the directory of a run that is to go on. Raises UsageError when there is none, or it cannot."""
        _story(path)  # a directory that is no run's gets no lock
        found = cls(path, _locked(path, "--resume"), [])
        found._story = _story(path)
        found.kept = True
        return found

    @property
    def plan(self) -> Plan:
        """The plan that it began with. Raises UsageError where ``run.json`` holds none."""
        try:
            return make(dict(self._story["plan"]))
        except UsageError as error:
            raise UsageError(f"--resume {self.path}: run.json: {error}") from None

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return bool(self._story.get("finished"))

    @property
    def secret(self) -> bytes:
        """Secret of the run, 32 bytes, never sent; :meth:`begin` makes it. Its keys can take the run's nodes over."""
        return bytes.fromhex(self._story["secret"])

    def begin(self, plan: Plan) -> str:
        """Write the plan of a run that starts or continues; return the run's public id."""
        run = self._story.get("run") or secrets.token_hex(8)
        secret = self._story.get("secret") or secrets.token_hex(32)  # a run of an earlier version has none
        write_text(self.path / "plan.toml", tomli_w.dumps(plan.model_dump()))
        # without what is infinite, as a deadline by default, which JSON has not
        settings = {name: value for name, value in plan.model_dump().items() if value != math.inf}
        self._tell({"format": FORMAT, "run": run, "secret": secret, "finished": False, "plan": settings})
        return str(run)

    def keep(self) -> None:
        """From now on there is something to go on with, whatever ends the run."""
        self.kept = True

    def finish(self) -> None:
        """Write that the run has come to its end."""
        self._tell({**self._story, "finished": True})

    def close(self) -> None:
        """Give the directory back; one in which nothing began is removed again, as far as it was made here."""
        with contextlib.suppress(OSError):
            (self.path / _LOCK).unlink(missing_ok=True)
        self._lock.release()
        if not self.kept:
            with contextlib.suppress(OSError):  # another run may have come to use the parent
                for name in ("plan.toml", "run.json", "run.log"):
                    (self.path / name).unlink(missing_ok=True)
                for folder in self._made:
                    folder.rmdir()

    def _tell(self, story: dict[str, Any]) -> None:
        self._story = story
        write_text(self.path / "run.json", json.dumps(story) + "\n")


def empty(path: Path) -> list[Path]:
    """Make a directory, unless it is there and empty; gives those that were made. Raises UsageError."""
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        try:
            _make(path)
        except FileExistsError:
            if not path.is_dir():
                raise
        if any(path.iterdir()):
            raise _not_new(path, "is not empty")
    except FileExistsError:
        raise _not_new(path, "is a file") from None
    except OSError as error:
        raise UsageError(f"--run-dir {path} cannot be written: {error.strerror or error}") from None
    return made


def new_directory(strategy: str, parent: Path = Path("runs")) -> Path:
    """Make a directory that no other run has, ``runs/<time>-<strategy>``, and return its path. Raises UsageError.

    Making it is what claims the name, so two runs that start within one second get two directories.
    """
    strategy = strategy if len(strategy) <= LONGEST_NAME else strategy.partition(":")[0]  # plan.toml has all of it
    name = time.strftime("%Y%m%d-%H%M%S-") + re.sub(r"[^A-Za-z0-9.=]+", "-", strategy)
    for number in count(1):
        path = parent / (name if number == 1 else f"{name}-{number}")
        try:
            _make(path)
        except FileExistsError:
            continue
        except OSError as error:
            raise UsageError(f"{path} cannot be made: {error.strerror or error}; name a --run-dir elsewhere") from None
        return path
    raise AssertionError  # count() does not end


def _make(path: Path) -> None:
    """Make a directory that does not exist, and its parents. Raises FileExistsError when it exists, or OSError.

    A run that never began removes the parents that it made, maybe between the two steps here; then both follow again.
    """
    for left in reversed(range(100)):
        try:
            _make_parent(path.parent)
            private_files.folder(path)
        except FileNotFoundError:
            if not left:
                raise
        else:
            return


def _make_parent(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:  # a file, or a link to nothing
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None


def _not_new(path: Path, what: str) -> UsageError:
    return UsageError(f"--run-dir {path} {what}; name a new or an empty directory")


def stored_settings(path: Path) -> dict[str, Any]:
    """What the plan of a run that is to go on says now. Raises UsageError when there is no such run."""
    _story(path)
    try:
        return read(path / "plan.toml")
    except UsageError as error:
        raise UsageError(f"--resume {path}: {str(error).removeprefix('--plan ')}") from None


def finished_rounds(path: Path) -> int:
    """Return the rounds of a run that has finished, or 0 for another run. Raises UsageError when there is no run."""
    story = _story(path)
    return make(story["plan"]).training_rounds if story["finished"] else 0


def _story(path: Path) -> dict[str, Any]:
    """What ``run.json`` says. Raises UsageError."""
    if not path.is_dir():
        raise UsageError(f"--resume {path}: there is no such directory")
    try:
        story = json.loads((path / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        what = "is empty" if not any(path.iterdir()) else "holds no run that had begun (no run.json)"
        raise UsageError(f"--resume {path}: the directory {what}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"--resume {path}: run.json cannot be read: {error}") from None
    number = story.get("format") if isinstance(story, dict) else None
    if isinstance(number, int) and number > FORMAT:
        raise UsageError(f"--resume {path}: it is of a newer fedws (format {number}; this one reads {FORMAT})")
    secret = story.get("secret", "0" * 64) if isinstance(story, dict) else None  # a run of an earlier version has none
    whole = isinstance(secret, str) and _SECRET.fullmatch(secret)
    if number != FORMAT or not whole or not {"run", "finished", "plan"} <= story.keys():
        raise UsageError(f"--resume {path}: run.json is not one of fedws")
    if problem := stored_records.story(story):
        raise UsageError(f"--resume {path}: run.json cannot be used: {problem}")
    return dict(story)


def _locked(path: Path, flag: str) -> filelock.BaseFileLock:
    lock = filelock.FileLock(path / _LOCK, mode=private_files.FILE)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise UsageError(f"{flag} {path} is in use by another coordinator") from None
    except OSError as error:
        raise UsageError(f"{flag} {path} cannot be written: {error.strerror or error}") from None
    if private_files.exposed(
        path
    ):  # its owner made it so, maybe for a group that shares it; the files in it are private
        log.warning("%s %s is open to other users of this machine: chmod -R go= %s", flag, path, shlex.quote(str(path)))
    return lock
