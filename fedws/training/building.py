"""Models with fresh weights."""

import torch

from fedws.core import registry
from fedws.core.seeds import seeded
from fedws.protocol import sendable_model


def initial(spec: str, seed: int) -> torch.nn.Module:
    """A registered model with fresh weights drawn from ``seed``. Raises UnknownName or UsageError."""
    with seeded(seed):
        return sendable_model.built(spec, registry.build("model", spec))
