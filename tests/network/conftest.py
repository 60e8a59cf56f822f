"""What tests of a federation inside one process need."""

import logging
from collections.abc import Iterator

import pytest

from fedws.security.credentials import INSECURE
from tests.helpers.federation import registered


@pytest.fixture(autouse=True)
def _points() -> Iterator[None]:
    with registered():
        yield


@pytest.fixture
def nobody_has_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that speak the handshake by hand; ``test_keys.py`` and ``test_unauthenticated_peers.py`` are about
    keys."""
    for module in ("fedws.node.node_credentials", "fedws.coordinator.setup"):
        monkeypatch.setattr(f"{module}.load_default_credentials", lambda: INSECURE)


@pytest.fixture
def every_line(caplog: pytest.LogCaptureFixture) -> None:
    """All that a run logs."""
    caplog.set_level(logging.INFO, "fedws")


@pytest.fixture(autouse=True)
def _empty_pictures(no_pictures: None) -> None:
    """A module whose runs are to draw has a fixture of this name that does nothing."""
