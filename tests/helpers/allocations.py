"""A record of the sizes that torch.empty allocates."""

from typing import Any

import pytest
import torch


def watched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes that torch.empty is asked for from now on."""
    asked: list[int] = []
    empty = torch.empty

    def spy(size: int, **options: Any) -> torch.Tensor:
        asked.append(size)
        return empty(size, **options)

    monkeypatch.setattr(torch, "empty", spy)
    return asked
