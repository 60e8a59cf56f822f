"""A record of the sizes that torch.empty allocates."""

from typing import Any

import pytest
import torch


def watched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the sizes of all calls of torch.empty while the context lasts."""
    sizes: list[int] = []
    empty = torch.empty

    def spy(size: int, **options: Any) -> torch.Tensor:
        sizes.append(size)
        return empty(size, **options)

    monkeypatch.setattr(torch, "empty", spy)
    return sizes
