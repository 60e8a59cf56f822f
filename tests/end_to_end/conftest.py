"""Fixtures of the tests that run commands."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.credential_flags import KEY
from tests.helpers.processes import Processes


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Starts commands in the test's folder; all have ended when the test has."""
    started = Processes(tmp_path, {})
    yield started
    started.close()


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Processes]:
    """Commands of a user who has run nothing of fedws yet."""
    folders = {"HOME": "home", "XDG_CONFIG_HOME": "config", "XDG_STATE_HOME": "state"}
    started = Processes(tmp_path, {name: str(tmp_path / folder) for name, folder in folders.items()})
    del started.environment["FEDWS_KEY"]
    yield started
    started.close()


@pytest.fixture
def given(bare: Processes) -> Processes:
    """Commands of a user who has a key."""
    bare.environment["FEDWS_KEY"] = KEY
    return bare
