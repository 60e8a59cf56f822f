"""A function of a test, run in a process of its own."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.helpers.support import REPOSITORY


def apart(function: Callable[[Path], None], directory: Path) -> str:
    """Return the output of a module's function in a process of its own, which may fork because it has one thread."""
    # A fork would lose further threads, and then wait for them.
    module, name = function.__module__, function.__name__
    code = f"import pathlib, torch, {module} as t; torch.set_num_threads(1); t.{name}(pathlib.Path({str(directory)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
