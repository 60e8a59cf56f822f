"""What tests of plugins share: all that they load is forgotten after them."""

import sys
from collections.abc import Iterator

import pytest

from fedws.core import registry
from fedws.core.error_location import PLUGIN


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget the pieces, folders, plugins and modules (``beside_...``) of a test; keep the pieces that ship."""
    for kind in registry.KINDS:
        for name in registry.names(kind):
            registry.find(kind, name)
    monkeypatch.setattr(registry, "_pieces", dict(registry._pieces))
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith((PLUGIN, "beside_")):
            del sys.modules[name]
