"""An open run log in a temporary directory, and its files."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedws.recording.run_log import RunLog, log


@pytest.fixture(autouse=True)
def level() -> Iterator[None]:
    """Restore the level of the log, which an open record sets."""
    before = log.level, list(log.handlers)
    yield
    log.setLevel(before[0])
    assert log.handlers == before[1], "a record that was closed listens no more"


@pytest.fixture
def record(tmp_path: Path) -> Iterator[RunLog]:
    found = RunLog(tmp_path)
    found.open()
    yield found
    found.close()


def strict(text: str) -> Any:
    """Parse JSON of RFC 8259, which has no NaN and no Infinity."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}
