"""Several extractors for one head; each worker draws one of them at random and does not disclose which."""

import copy
from collections.abc import Sequence
from itertools import count, takewhile

import torch
from torch import nn

from fedws.core.tensors import Tensors
from fedws.split_learning.model_split import split_model

MAX_EXTRACTORS = 16
"""Maximum number of extractors to draw from."""


def pack_state_dicts(state_dicts: Sequence[Tensors]) -> dict[str, torch.Tensor]:
    """Pack several dicts of tensors into one; the number of its dict, from 0, precedes each name."""
    return {
        f"{number}:{name}": tensor
        for number, state_dict in enumerate(state_dicts)
        for name, tensor in state_dict.items()
    }


def unpack_state_dicts(tensors: Tensors) -> list[Tensors]:
    """Return the dicts that ``pack_state_dicts`` packed; names without the number of a dict are ignored.

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
    """Return True if ``name`` has the form of a name in a packed dict.

    >>> is_packed_name("0:conv1.weight"), is_packed_name("conv1.weight"), is_packed_name("0.weight")
    (True, False, False)
    """
    return name.partition(":")[0].isdigit() and ":" in name


class MultiExtractorModel(nn.Module):
    """A model of several extractors and one head; in training, the batches use the extractors in turn.

    The head therefore learns to read the features of every extractor. ``module`` is the whole model, which is trained
    in place, and ``extra_extractors`` are the other extractors. ``first_extractor`` selects the extractor of the first
    batch, since there may be fewer batches than extractors. Raises UsageError as
    ``fedws.split_learning.model_split.split_model`` does, and RuntimeError for extractors of another model or
    split point.
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
        """Return the output of the whole model, in training with the next extractor, otherwise with the first one."""
        self._extractor_index += self.training
        extractor = self.extractors[self._extractor_index % len(self.extractors) if self.training else 0]
        outputs: torch.Tensor = self.head(extractor(inputs))
        return outputs

    def model_state(self) -> dict[str, torch.Tensor]:
        """Return the state dict of the whole model, with the first extractor."""
        return {**self.extractors[0].state_dict(), **self.head.state_dict()}

    def pack_extra_extractors(self) -> dict[str, torch.Tensor]:
        """Return the other extractors, packed into one dict."""
        return pack_state_dicts([extractor.state_dict() for extractor in list(self.extractors)[1:]])
