"""Fixtures of the tests that run commands."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import Processes


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Starts commands in the test's folder; all have ended when the test has."""
    started = Processes(tmp_path, {})
    yield started
    started.close()
