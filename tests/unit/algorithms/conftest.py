"""A model of a tiny training, registered for the tests that name this fixture."""

import pytest

from fedws.core import registry
from tests.helpers.tiny_training import tiny_model


@pytest.fixture
def tiny_model_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the model ``tiny``."""
    monkeypatch.setitem(registry._pieces, ("model", "tiny"), tiny_model)
