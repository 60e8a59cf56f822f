"""The rules by which a model is called with the inputs of a batch.

A tensor is the single argument of the model. A dict or tuple is also a single argument, unless its items match the
signature of the model's ``forward``:

- A dict is passed as keyword arguments, ``module(**inputs)``, if ``forward`` has a parameter for each key and no other
  required parameter. Hugging Face models accept the output of a tokenizer like this.
- A tuple or list is passed as positional arguments, ``module(*inputs)``, if ``forward`` accepts that many arguments. In
  addition, either no parameter or more than one must be required.

As a result, ``forward(self, x)`` always gets the dict or tuple itself.
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
    """A callable that passes inputs to a model in the form that ``forward`` accepts, by the rules of this module."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module

    def __call__(self, inputs: Any) -> Any:
        """Return the outputs of the model for ``inputs``."""
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
