"""The directory of a run, which one coordinator at a time uses and from which the run continues."""

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
    """The directory of a run, locked by this process until ``close``."""

    def __init__(self, path: Path, lock: filelock.BaseFileLock, created: Sequence[Path]) -> None:
        self.path = path
        self._lock = lock
        self._created = created
        self._run_info: dict[str, Any] = {}
        self.retained = False
        """True if ``close`` keeps the directory."""

    @classmethod
    def create(cls, path: Path) -> Self:
        """Create a directory, or use an empty one, and lock it.

        Raises UsageError if the directory cannot be used.
        """
        return cls._claim(path, create_empty_directory(path))

    @classmethod
    def create_unique(cls, algorithm: str, parent: Path = Path("runs")) -> Self:
        """Create and lock a new directory for a run with this algorithm; see ``create_unique_directory``.

        Raises UsageError if the directory cannot be created.
        """
        created_parents = [folder for folder in (parent, *parent.parents) if not folder.exists()]
        path = create_unique_directory(algorithm, parent)
        return cls._claim(path, [path, *created_parents])

    @classmethod
    def _claim(cls, path: Path, created: Sequence[Path]) -> Self:
        found = cls(path, _acquire_lock(path, "--run-dir"), created)
        try:
            # The log file marks the directory as used, also while this run waits for its workers.
            private_files.open_text(path / LOG_FILE, "x").close()
        except FileExistsError:
            raise build_not_new_error(path, "is already used by another run") from None
        except OSError as error:
            raise UsageError(f"cannot write --run-dir {path}: {error.strerror or error}; choose another") from None
        return found

    @classmethod
    def open_existing(cls, path: Path) -> Self:
        """Lock the directory of a run that continues.

        Raises UsageError if the directory has no run, is in use, or cannot be written.
        """
        read_run_info(path)  # first without a lock, so that a directory without a run stays unchanged
        found = cls(path, _acquire_lock(path, "--resume"), [])
        found._run_info = read_run_info(path)
        found.retained = True
        return found

    @property
    def plan(self) -> Plan:
        """The plan with which the run began.

        Raises UsageError if the plan in ``run.json`` is invalid.
        """
        try:
            return build_plan(dict(self._run_info["plan"]))
        except UsageError as error:
            raise UsageError(f"--resume {self.path}: run.json: {error}") from None

    @property
    def finished(self) -> bool:
        """True if the run has finished."""
        return bool(self._run_info.get("finished"))

    @property
    def secret(self) -> bytes:
        """Secret of the run, 32 bytes, which is never sent.

        ``begin`` creates it. The keys derived from it can take over the nodes of the run.
        """
        return bytes.fromhex(self._run_info["secret"])

    def begin(self, plan: Plan) -> str:
        """Write the plan of a run that starts or continues, and return the run's public id."""
        run_id = self._run_info.get("run_id") or secrets.token_hex(8)
        secret = self._run_info.get("secret") or secrets.token_hex(32)  # a run of an earlier version has no secret
        atomic_write(self.path / PLAN_FILE, tomli_w.dumps(plan.model_dump()).encode())
        # JSON cannot represent infinite values, such as the default of the round timeout.
        settings = {name: value for name, value in plan.model_dump().items() if value != math.inf}
        run_info = {"format": RUN_FORMAT, "run_id": run_id, "secret": secret, "finished": False, "plan": settings}
        self._write_run_info(run_info)
        return str(run_id)

    def retain(self) -> None:
        """Keep the directory on ``close``, because the run can be continued from now on."""
        self.retained = True

    def mark_finished(self) -> None:
        """Record in ``run.json`` that the run has finished."""
        self._write_run_info({**self._run_info, "finished": True})

    def close(self) -> None:
        """Release the directory, and remove it if no run began in it.

        Only directories that ``create`` or ``create_unique`` created are removed.
        """
        with contextlib.suppress(OSError):
            (self.path / LOCK_FILE).unlink(missing_ok=True)
        self._lock.release()
        if not self.retained:
            with contextlib.suppress(OSError):  # another run may use the parent by now
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
        raise UsageError(f"cannot write {flag} {path}: {error.strerror or error}") from None
    # Only a warning: the owner may share the directory with a group on purpose, and the files in it are private.
    if private_files.is_exposed(path):
        command = f"chmod -R go= {shlex.quote(str(path))}"
        log.warning("%s %s is accessible to other users of this machine; restrict it with %s", flag, path, command)
    return lock
