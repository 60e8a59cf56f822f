"""Selection of the tests that a session leaves out: those marked ``long``, unless the command line chooses them."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

MARK = "long"


def named(item: pytest.Item, arguments: Iterable[str], directory: Path) -> bool:
    """Return whether an argument of the command line names the test or its file, not only a folder."""
    for argument in arguments:
        file, _, within = argument.partition("::")
        if item.path != (directory / file).resolve():
            continue
        name = item.nodeid.partition("::")[2]
        if not within or name == within or name.startswith((f"{within}::", f"{within}[")):
            return True
    return False


def left_out(items: Sequence[pytest.Item], config: pytest.Config) -> list[pytest.Item]:
    """Return the tests to leave out; none if ``-m`` selects tests."""
    if config.option.markexpr:
        return []
    directory, arguments = config.invocation_params.dir, config.args
    long = (item for item in items if item.get_closest_marker(MARK) is not None)
    return [item for item in long if not named(item, arguments, directory)]


def told(count: int) -> str:
    """Return the line about so many tests that were left out."""
    return f"left out {count} long tests: make test-long runs them, and so does a command that names one or its file"
