"""How a model is called: by the signature of its forward, whatever its inputs are."""

from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import nn

from fedws.training.model_call import ModelCaller

A, B = torch.tensor(1), torch.tensor(2)
Pair = namedtuple("Pair", "a b")


class One(nn.Module):
    def forward(self, x: Any) -> Any:
        return ("one", x)


class Optional(nn.Module):
    def forward(self, x: Any, flag: bool = False) -> Any:
        return ("optional", x, flag)


class Two(nn.Module):
    def forward(self, a: Any, b: Any) -> Any:
        return ("two", a, b)


class Three(nn.Module):
    def forward(self, a: Any, b: Any, mask: Any = None) -> Any:
        return ("three", a, b, mask)


class Tokens(nn.Module):
    """As Hugging Face's models."""

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **more: Any) -> Any:
        return ("tokens", input_ids, attention_mask, more)


class Wrapping(nn.Module):
    """As what wraps a model."""

    def forward(self, *given: Any, **named: Any) -> Any:
        return ("any", given, named)


class Keys(nn.Module):
    def forward(self, *, a: Any, b: Any = None) -> Any:
        return ("keys", a, b)


class First(nn.Module):
    def forward(self, a: Any, /, b: Any = None) -> Any:
        return ("first", a, b)


NAMED = {"a": A, "b": B}
TOKENS = {"input_ids": A, "attention_mask": B}


@pytest.mark.parametrize(
    ("module", "inputs", "wanted"),
    [
        (One(), A, ("one", A)),
        (Two(), [A, B], ("two", A, B)),
        (Two(), (A, B), ("two", A, B)),
        (Two(), Pair(A, B), ("two", A, B)),
        (Two(), NAMED, ("two", A, B)),
        (One(), [A, B], ("one", [A, B])),
        (One(), Pair(A, B), ("one", Pair(A, B))),
        (One(), NAMED, ("one", NAMED)),
        (One(), {"x": A}, ("one", A)),
        (One(), {1: A}, ("one", {1: A})),
        (Optional(), (A, B), ("optional", (A, B), False)),
        (Optional(), NAMED, ("optional", NAMED, False)),
        (Three(), (A, B), ("three", A, B, None)),
        (Three(), (A, B, A), ("three", A, B, A)),
        (Tokens(), TOKENS, ("tokens", A, B, {})),
        (Tokens(), {**TOKENS, "kind": A}, ("tokens", A, B, {"kind": A})),
        (Tokens(), (A, B), ("tokens", A, B, {})),
        (Tokens(), A, ("tokens", A, None, {})),
        (Wrapping(), NAMED, ("any", (), NAMED)),
        (Wrapping(), (A, B), ("any", (A, B), {})),
        (Keys(), NAMED, ("keys", A, B)),
        (Keys(), {"a": A}, ("keys", A, None)),
        (First(), NAMED, ("first", NAMED, None)),
        (nn.Identity(), NAMED, NAMED),
        (nn.Sequential(nn.Identity()), [A, B], [A, B]),
    ],
    ids=lambda it: type(it).__name__,
)
def test_a_model_is_given_what_its_forward_takes(module: nn.Module, inputs: Any, wanted: Any) -> None:
    assert ModelCaller(module)(inputs) == wanted


def test_inputs_that_do_not_fit_are_the_one_argument() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'b'"):
        ModelCaller(Two())({"a": A, "c": B})
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'b'"):
        ModelCaller(Two())((A, B, A))
