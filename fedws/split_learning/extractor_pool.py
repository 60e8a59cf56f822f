"""Several extractors for one head: a worker draws one of them, and keeps to itself which."""

import copy
from collections.abc import Sequence
from itertools import count, takewhile

import torch
from torch import nn

from fedws.core.tensors import Tensors
from fedws.split_learning.model_split import split

MOST = 16
"""Extractors to draw from."""


def join(several: Sequence[Tensors]) -> dict[str, torch.Tensor]:
    """Several dicts of tensors as one: each name behind the number of its dict, from 0."""
    return {f"{number}:{name}": tensor for number, one in enumerate(several) for name, tensor in one.items()}


def parts(tensors: Tensors) -> list[Tensors]:
    """What :func:`join` joined; names that it did not make are left out.

    >>> [sorted(one) for one in parts(join([{"w": torch.ones(1)}, {"w": torch.ones(1), "b": torch.ones(1)}]))]
    [['w'], ['b', 'w']]
    """
    several: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition(":")
        several.setdefault(number, {})[name] = tensor
    return [several[number] for number in takewhile(several.__contains__, map(str, count()))]


def joined(name: str) -> bool:
    """Whether a name may be one that :func:`join` made.

    >>> joined("0:conv1.weight"), joined("conv1.weight"), joined("0.weight")
    (True, False, False)
    """
    return name.partition(":")[0].isdigit() and ":" in name


class Shared(nn.Module):
    """Extractors with one head behind them; while they train, the batches take them in turn.

    So the head reads what any of them makes. ``module`` is the whole model, trained in place, and ``others`` the other
    extractors; ``turn`` says which begins, since there may be fewer batches than extractors. Raises UsageError, as
    :func:`fedws.split_learning.model_split.split`, and RuntimeError for extractors of another model or cut.
    """

    def __init__(self, module: nn.Module, cut: str, others: Sequence[Tensors], turn: int = 0) -> None:
        super().__init__()
        more = [split(copy.deepcopy(module), cut)[0] for _ in others]
        for extractor, tensors in zip(more, others, strict=True):
            extractor.load_state_dict(dict(tensors))
        extractor, self.head = split(module, cut)
        self.extractors = nn.ModuleList([extractor, *more])
        self._turn = turn - 1

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """What the whole model gives, with the extractor whose turn it is; outside of training with the first."""
        self._turn += self.training
        extractor = self.extractors[self._turn % len(self.extractors) if self.training else 0]
        outputs: torch.Tensor = self.head(extractor(inputs))
        return outputs

    def whole(self) -> dict[str, torch.Tensor]:
        """The state dict of the whole model, with the first extractor."""
        return {**self.extractors[0].state_dict(), **self.head.state_dict()}

    def others(self) -> dict[str, torch.Tensor]:
        """The other extractors, joined."""
        return join([extractor.state_dict() for extractor in list(self.extractors)[1:]])
