"""How a model is called with a batch's inputs.

A tensor is the model's one argument. So are a dict and a tuple, unless the signature of the model's ``forward`` fits
their items:

- a dict goes in as keyword arguments, ``module(**inputs)``, if ``forward`` has a parameter for each key and no other
  one that is required. That is how Hugging Face's models take what a tokenizer gives.
- a tuple or list goes in as positional arguments, ``module(*inputs)``, if ``forward`` takes that many arguments and
  more than one of its parameters is required, or none is.

So ``forward(self, x)`` always gets the dict or tuple itself.
"""

import inspect
from collections.abc import Collection
from collections.abc import Mapping as AbstractMapping
from functools import cached_property
from inspect import Parameter
from typing import Any

import torch

_POSITIONAL_KINDS = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_KEYWORD_KINDS = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


class ModelCaller:
    """Calls a model the way its ``forward`` takes the inputs; see this module's text."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module

    def __call__(self, inputs: Any) -> Any:
        """Return the outputs of the model."""
        if isinstance(inputs, AbstractMapping) and self._takes_keywords(inputs.keys()):
            return self._module(**inputs)
        if isinstance(inputs, tuple | list) and self._takes_positional(len(inputs)):
            return self._module(*inputs)
        return self._module(inputs)

    @cached_property
    def _parameters(self) -> list[Parameter]:
        try:
            return list(inspect.signature(self._module.forward).parameters.values())
        except (TypeError, ValueError):  # compiled code may have no signature
            return []

    def _takes_keywords(self, keys: Collection[Any]) -> bool:
        named = {it.name for it in self._parameters if it.kind in _KEYWORD_KINDS}
        required = {
            it.name
            for it in self._parameters
            if it.kind in (*_POSITIONAL_KINDS, *_KEYWORD_KINDS) and it.default is it.empty
        }
        more = any(it.kind is Parameter.VAR_KEYWORD for it in self._parameters)
        placed = any(it.kind is Parameter.POSITIONAL_ONLY for it in self._parameters)
        fits = required <= set(keys) and (more or named >= set(keys)) and not placed
        return fits and all(isinstance(key, str) for key in keys)

    def _takes_positional(self, count: int) -> bool:
        placed = [it for it in self._parameters if it.kind in _POSITIONAL_KINDS]
        required = sum(it.default is it.empty for it in placed)
        more = any(it.kind is Parameter.VAR_POSITIONAL for it in self._parameters)
        return required != 1 and (more or len(placed) > 1) and required <= count and (more or count <= len(placed))
