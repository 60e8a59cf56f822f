"""The directory of a run: one coordinator's at a time, and the place from which the run can go on."""

import contextlib
import json
import logging
import math
import secrets
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import filelock
import tomli_w

from fedws.core import private_files
from fedws.core.atomic_files import atomic_write
from fedws.core.errors import UsageError
from fedws.core.plan import Plan, build_plan
from fedws.recording.directory_creation import build_not_new_error, create_empty_directory, create_unique_directory
from fedws.recording.run_info import RUN_FORMAT, read_run_info
from fedws.recording.run_layout import LOCK_FILE, LOG_FILE, PLAN_FILE, RUN_INFO_FILE

log = logging.getLogger("fedws")


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
                path / LOG_FILE, "x"
            ).close()  # no other run takes the directory while this one waits for its workers
        except FileExistsError:
            raise build_not_new_error(path, "was taken by another run just now") from None
        except OSError as error:
            raise UsageError(f"--run-dir {path} cannot be written: {error.strerror or error}") from None
        return found

    @classmethod
    def open_existing(cls, path: Path) -> Self:
        """Take the directory of a run that is to go on. Raises UsageError when there is none, or it cannot."""
        read_run_info(path)  # a directory without a run gets no lock
        found = cls(path, _acquire_lock(path, "--resume"), [])
        found._run_info = read_run_info(path)
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
        atomic_write(self.path / PLAN_FILE, tomli_w.dumps(plan.model_dump()).encode())
        # without what is infinite, as the round timeout by default, which JSON has not
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
            (self.path / LOCK_FILE).unlink(missing_ok=True)
        self._lock.release()
        if not self.retained:
            with contextlib.suppress(OSError):  # another run may have come to use the parent
                for name in (PLAN_FILE, RUN_INFO_FILE, LOG_FILE):
                    (self.path / name).unlink(missing_ok=True)
                for folder in self._created:
                    folder.rmdir()

    def _write_run_info(self, run_info: dict[str, Any]) -> None:
        self._run_info = run_info
        atomic_write(self.path / RUN_INFO_FILE, f"{json.dumps(run_info)}\n".encode())


def _acquire_lock(path: Path, flag: str) -> filelock.BaseFileLock:
    lock = filelock.FileLock(path / LOCK_FILE, mode=private_files.FILE_MODE)
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
