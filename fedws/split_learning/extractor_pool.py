"""Several extractors for one head: a worker draws one of them, and keeps to itself which."""

import copy
from collections.abc import Sequence
from itertools import count, takewhile

import torch
from torch import nn

from fedws.core.tensors import Tensors
from fedws.split_learning.model_split import split_model

MAX_EXTRACTORS = 16
"""Extractors to draw from."""


def pack_state_dicts(state_dicts: Sequence[Tensors]) -> dict[str, torch.Tensor]:
    """Several dicts of tensors as one: each name behind the number of its dict, from 0."""
    return {
        f"{number}:{name}": tensor
        for number, state_dict in enumerate(state_dicts)
        for name, tensor in state_dict.items()
    }


def unpack_state_dicts(tensors: Tensors) -> list[Tensors]:
    """What :func:`pack_state_dicts` joined; names that it did not make are left out.

    >>> packed = pack_state_dicts([{"w": torch.ones(1)}, {"w": torch.ones(1), "b": torch.ones(1)}])
    >>> [sorted(state) for state in unpack_state_dicts(packed)]
    [['w'], ['b', 'w']]
    """
    several: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition(":")
        several.setdefault(number, {})[name] = tensor
    return [several[number] for number in takewhile(several.__contains__, map(str, count()))]


def is_packed_name(name: str) -> bool:
    """Whether a name may be one that :func:`pack_state_dicts` made.

    >>> is_packed_name("0:conv1.weight"), is_packed_name("conv1.weight"), is_packed_name("0.weight")
    (True, False, False)
    """
    return name.partition(":")[0].isdigit() and ":" in name


class MultiExtractorModel(nn.Module):
    """Extractors with one head behind them; while they train, the batches take them in turn.

    So the head reads what any of them makes. ``module`` is the whole model, trained in place, and ``extra_extractors``
    the other extractors; ``first_extractor`` says which begins, since there may be fewer batches than extractors.
    Raises UsageError, as :func:`fedws.split_learning.model_split.split_model`, and RuntimeError for extractors of
    another model or cut.
    """

    def __init__(
        self, module: nn.Module, split_at: str, extra_extractors: Sequence[Tensors], first_extractor: int = 0
    ) -> None:
        super().__init__()
        more = [split_model(copy.deepcopy(module), split_at)[0] for _ in extra_extractors]
        for extractor, tensors in zip(more, extra_extractors, strict=True):
            extractor.load_state_dict(dict(tensors))
        extractor, self.head = split_model(module, split_at)
        self.extractors = nn.ModuleList([extractor, *more])
        self._extractor_index = first_extractor - 1

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """What the whole model gives, with the extractor whose turn it is; outside of training with the first."""
        self._extractor_index += self.training
        extractor = self.extractors[self._extractor_index % len(self.extractors) if self.training else 0]
        outputs: torch.Tensor = self.head(extractor(inputs))
        return outputs

    def model_state(self) -> dict[str, torch.Tensor]:
        """The state dict of the whole model, with the first extractor."""
        return {**self.extractors[0].state_dict(), **self.head.state_dict()}

    def pack_extra_extractors(self) -> dict[str, torch.Tensor]:
        """The other extractors, joined."""
        return pack_state_dicts([extractor.state_dict() for extractor in list(self.extractors)[1:]])
