"""A fixture for tests of plugins, which removes all that they load."""

import sys
from collections.abc import Iterator

import pytest

from fedws.core import registry
from fedws.core.error_text import PLUGIN_MODULE_PREFIX


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget the pieces, folders, plugins and modules (``beside_...``) of a test; keep the pieces that ship."""
    for kind in registry.PIECE_KINDS:
        for name in registry.list_pieces(kind):
            registry.find_piece(kind, name)
    monkeypatch.setattr(registry, "_pieces", dict(registry._pieces))
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith((PLUGIN_MODULE_PREFIX, "beside_")):
            del sys.modules[name]
