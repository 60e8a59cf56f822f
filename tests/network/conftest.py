"""What every test of a federation inside one process needs."""

from collections.abc import Iterator

import pytest

from tests.nodes import registered


@pytest.fixture(autouse=True)
def _points() -> Iterator[None]:
    with registered():
        yield
