"""Models with fresh weights."""

import torch

from fedws.core import registry
from fedws.core.seeds import seed_generators
from fedws.protocol import sendable_model


def build_model(spec: str, seed: int) -> torch.nn.Module:
    """A registered model with fresh weights drawn from ``seed``. Raises UnknownName or UsageError."""
    with seed_generators(seed):
        return sendable_model.require_module(spec, registry.build_piece("model", spec))
