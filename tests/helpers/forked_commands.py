"""Programs of this project as copies of a process that has imported everything, for tests of their callers."""

import os
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from tests.helpers.processes import FORKS, enter


class Copy:
    """A copy of a process with its imports done; a benchmark uses it like a ``subprocess.Popen``."""

    def __init__(self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str], **_: object) -> None:
        reader, writer = FORKS.Pipe(duplex=False)
        self._process = FORKS.Process(target=_program, args=(command[1:], cwd, env, writer), daemon=False)
        self._process.start()
        writer.close()
        self.stdout = os.fdopen(os.dup(reader.fileno()), encoding="utf-8")
        reader.close()
        self.pid = self._process.pid
        self.terminate, self.kill = self._process.terminate, self._process.kill

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a copy", timeout or 0.0)
        return self._process.exitcode


def _program(command: Sequence[str], folder: Path, environment: Mapping[str, str], out: Connection) -> None:
    """Turn the new process into ``python COMMAND``."""
    enter(folder, environment, out, out)
    sys.argv = list(command[1:] if command[0] == "-m" else command)
    run = runpy.run_module if command[0] == "-m" else runpy.run_path
    run(sys.argv[0], run_name="__main__")
