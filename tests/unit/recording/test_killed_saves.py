"""A whole checkpoint exists whenever a process is killed while it saves."""

import contextlib
import itertools
import os
import shutil
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from fedws.recording import checkpoint
from fedws.recording.checkpoint import Checkpoints
from tests.helpers.checkpoint_files import names
from tests.helpers.own_process import apart


def filled(number: int, elements: int) -> Any:
    return {"w": torch.full((elements,), float(number))}


def forked(act: Callable[[], None]) -> int:
    """Do something in a child, and no longer than a minute; gives its id."""
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(60)
            act()
            os._exit(0)
        finally:
            os._exit(1)
    return child


def end(child: int) -> int:
    """Wait for a child; gives its exit code, or minus its signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at_every_line(directory: Path) -> None:
    for line in itertools.count(1):
        shutil.rmtree(directory, ignore_errors=True)
        for number in (1, 2):
            Checkpoints(directory).save(number, filled(number, 3), {})
        left = itertools.count(line, -1)

        def trace(frame: FrameType, event: str, argument: Any, left: Iterator[int] = left) -> Any:
            if frame.f_code.co_filename != checkpoint.__file__:
                return None
            if event == "line" and next(left) == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        def act(trace: Any = trace) -> None:
            sys.settrace(trace)
            Checkpoints(directory).save(3, filled(3, 3), {})

        status = end(forked(act))
        assert status in (0, -signal.SIGKILL)
        found, remark = Checkpoints(directory).load()
        assert remark == "" and found.version in (2, 3) and found.state["w"].tolist() == [found.version] * 3
        assert len(names(directory)) in (2, 3) and not any(name.endswith(".part") for name in names(directory))
        print(found.version)
        if status == 0:
            return


def test_killed_at_any_line_of_a_save_a_whole_checkpoint_is_there(tmp_path: Path) -> None:
    found = apart(kill_at_every_line, tmp_path / "run").split()
    assert len(found) > 50 and found == sorted(found) and set(found) == {"2", "3"}


ELEMENTS = 2_000_000


def kill_while_writing(directory: Path) -> None:
    """Kill a process that saves one after another, when its temporary file has come so far."""
    number = 1
    Checkpoints(directory).save(number, filled(number, ELEMENTS), {})
    for share in range(10):
        reader, writer = os.pipe()

        def act(first: int = number + 1, writer: int = writer) -> None:
            for number in itertools.count(first):
                Checkpoints(directory).save(number, filled(number, ELEMENTS), {})
                os.write(writer, struct.pack("<q", number))

        child = forked(act)
        os.close(writer)
        ready = os.read(reader, 8)
        assert ready, "it has saved once"
        while written(directory) < share * ELEMENTS * 4 // 10:
            assert not os.waitpid(child, os.WNOHANG)[0], "it saves on"
        os.kill(child, signal.SIGKILL)
        assert end(child) == -signal.SIGKILL
        last = struct.unpack("<q", (ready + os.read(reader, 2**16))[-8:])[0]
        os.close(reader)
        half = written(directory) >= 0
        found, remark = Checkpoints(directory).load()
        number = found.version
        assert remark == "" and number in (last, last + 1)
        assert torch.equal(found.state["w"], filled(number, ELEMENTS)["w"])
        print("half" if half else "whole")


def written(directory: Path) -> int:
    """Size of the temporary file in bytes; -1 when it does not exist."""
    for path in directory.glob("*.part"):
        with contextlib.suppress(FileNotFoundError):
            return path.stat().st_size
    return -1


def test_killed_while_writing_the_last_checkpoint_is_there(tmp_path: Path) -> None:
    found = apart(kill_while_writing, tmp_path / "run").split()
    assert len(found) == 10 and "half" in found
