"""Fixtures of all tests: real data where this machine has it; and a count of what was skipped or left out, and why."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers import test_selection
from tests.helpers.support import REPOSITORY, require

torch.set_num_threads(1)
# A shell that runs the tests in the background ignores SIGINT, and so would each process that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["FEDWS_KEY"] = "5e" * 32  # of all nodes of all tests, so that nobody's own key is read or made
os.environ["XDG_STATE_HOME"] = _state = tempfile.mkdtemp(prefix="fedws-state-")  # and no audit log of theirs is written

MNIST = tuple(f"MNIST/raw/{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1"))
CIFAR10 = tuple(
    f"cifar-10-batches-py/{name}"
    for name in ("batches.meta", "test_batch", *(f"data_batch_{number}" for number in range(1, 6)))
)


def _fsync(fd: Any) -> None:
    """Check the handle, and do not wait for the disk: no power cut is tested, and there are many waits."""
    os.fstat(fd if isinstance(fd, int) else fd.fileno())


os.fsync = _fsync


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs write empty pictures: drawing takes longer than a short run."""
    monkeypatch.setattr("fedws.recording.curves.draw_curves", lambda records, groups, path, title="", **_: path.touch())


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """A folder with the real MNIST, as torchvision lays it out."""
    return _root("mnist", MNIST)


@pytest.fixture(scope="session")
def cifar_root() -> Path:
    """A folder with the real CIFAR-10, as torchvision lays it out."""
    return _root("cifar10", CIFAR10)


def _root(name: str, files: tuple[str, ...]) -> Path:
    """``$FEDWS_DATA`` when it has the files; else a temporary folder, kept for the next session, made from shared/."""
    given = os.environ.get("FEDWS_DATA")
    if given and all((Path(given) / file).is_file() for file in files):
        return Path(given).absolute()
    prepare = REPOSITORY.parent / "shared" / "data" / "prepare.py"
    require(prepare.is_file(), f"{name} is not here (neither in FEDWS_DATA nor in ../shared/data)")
    root = Path(tempfile.gettempdir()) / f"fedws-tests-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    ready = root / f"{name}.ready"
    with (root / f"{name}.lock").open("w") as lock:  # there may be several processes of tests
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists():
            subprocess.run([sys.executable, str(prepare), str(root), name], check=True, timeout=120)
            ready.touch()
    return root


def pytest_unconfigure() -> None:
    """Leave no audit logs."""
    shutil.rmtree(_state, ignore_errors=True)


_LEFT_OUT = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the long tests that were not asked for."""
    left_out = set(test_selection.left_out(items, config))
    config.stash[_LEFT_OUT] = len(left_out)
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=list(left_out))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None, None, None]:
    """Say at the end, after pytest's own summary, how many tests were skipped and why, also when none was."""
    yield
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(_reason(report) for report in skipped)
    told = ", ".join(f"{reason} ({count})" for reason, count in sorted(reasons.items()))
    terminalreporter.write_line(f"skipped {len(skipped)}" + (f": {told}" if told else ""))
    if count := terminalreporter.config.stash.get(_LEFT_OUT, 0):
        terminalreporter.write_line(test_selection.told(count))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand the count from a process of pytest-xdist to the one that prints the summary."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left out"] = session.config.stash.get(_LEFT_OUT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take that count: every process collects all tests."""
    node.config.stash[_LEFT_OUT] = getattr(node, "workeroutput", {}).get("left out", 0)


def _reason(report: pytest.TestReport) -> str:
    """The reason alone; pytest gives it as (file, line, "Skipped: reason")."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")
