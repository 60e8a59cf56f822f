"""Options are read by the annotation of the one parameter, wherever the factory has it from."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated

import pytest
from pydantic import Field

from fedws.core.errors import UsageError
from fedws.core.spec import Spec, parse_options

SOURCE = """{future}
import dataclasses, functools
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from nowhere import Thing

def function(thing: "Thing", *, width: int = 1, odd: "Thing" = None, plain=3): ...

class Class:
    def __init__(self, thing: "Thing", *, width: int = 1, odd: "Thing" = None, plain=3): ...

class Fresh:
    def __new__(cls, thing: "Thing", *, width: int = 1, odd: "Thing" = None, plain=3): ...

@dataclasses.dataclass
class Data:
    thing: "Thing" = None
    _: dataclasses.KW_ONLY = None
    width: int = 1
    odd: "Thing" = None
    plain: str = "3"

class Callable:
    def __call__(self, thing: "Thing", *, width: int = 1, odd: "Thing" = None, plain=3): ...
    def method(self, thing: "Thing", *, width: int = 1, odd: "Thing" = None, plain=3): ...

@functools.wraps(function)
def wrapped(*given, **settings): ...

instance = Callable()
method = instance.method
partial = functools.partial(functools.partial(function, None))
partial_class = functools.partial(Class, None)
"""
FACTORIES = (
    "function", "Class", "Fresh", "Data", "instance", "method", "partial", "partial_class", "wrapped",
)  # fmt: skip


def module(source: str, name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    made = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, made)
    exec(source, vars(made))
    return made


@pytest.mark.parametrize("future", ["", "from __future__ import annotations"], ids=["", "future"])
@pytest.mark.parametrize("name", FACTORIES)
def test_only_the_annotation_of_a_given_option_matters(name: str, future: str, monkeypatch: pytest.MonkeyPatch) -> None:
    factory = getattr(module(SOURCE.format(future=future), "pieces_of_test_spec", monkeypatch), name)
    assert parse_options("model", factory, Spec(name, "7", {"plain": "5"})) == {"width": 7, "plain": "5"}
    assert parse_options("model", factory, Spec(name, None, {})) == {}
    with pytest.raises(UsageError, match="width: Input should be a valid integer"):
        parse_options("model", factory, Spec(name, "x", {}))
    with pytest.raises(UsageError) as caught:
        parse_options("model", factory, Spec(name, None, {"odd": "1"}))
    text = str(caught.value)
    assert text.startswith(f"model {name}: odd: cannot resolve its type ")
    assert "(NameError: name 'Thing' is not defined)" in text
    assert text.endswith("; import it at run time, not only under TYPE_CHECKING") and "\n" not in text


def test_a_lambda_has_options_of_text() -> None:
    assert parse_options("model", lambda *, width=1: width, Spec("x", "7", {})) == {"width": "7"}


def test_an_annotation_within_another_is_read_too() -> None:
    def factory(*, width: Annotated["int", Field(ge=1)] = 1, other: list["str"] | None = None) -> None: ...

    assert parse_options("model", factory, Spec("x", "7", {})) == {"width": 7}
    with pytest.raises(UsageError, match="width: Input should be greater than or equal to 1"):
        parse_options("model", factory, Spec("x", "0", {}))


def test_a_field_of_a_base_class_is_read_where_that_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    future = "from __future__ import annotations\nimport dataclasses\n"
    body = "Width = int\n@dataclasses.dataclass\nclass Base:\n    _: dataclasses.KW_ONLY\n    width: Width = 1\n"
    base = module(future + body, "base_of_test_spec", monkeypatch)
    source = future + f"from {base.__name__} import Base\n@dataclasses.dataclass\nclass Derived(Base): ...\n"
    assert parse_options("model", module(source, "derived_of_test_spec", monkeypatch).Derived, Spec("x", "7", {})) == {
        "width": 7
    }


def test_a_factory_without_a_signature_is_one_line() -> None:
    with pytest.raises(UsageError, match="model x: cannot read its options: ValueError: no signature found"):
        parse_options("model", dict, Spec("x", "7", {}))


def test_a_type_that_no_text_is_read_as_is_one_line() -> None:
    def factory(*, where: Path = Path(), what: ModuleType | None = None, when: "1 +" = 0) -> None: ...  # type: ignore[valid-type]  # noqa: F722

    assert parse_options("model", factory, Spec("x", "/tmp", {})) == {"where": Path("/tmp")}
    with pytest.raises(UsageError, match=r"model x: what: cannot convert text to module \| None"):
        parse_options("model", factory, Spec("x", None, {"what": "sys"}))
    with pytest.raises(UsageError, match=r"model x: when: cannot resolve its type 1 \+ \(SyntaxError: "):
        parse_options("model", factory, Spec("x", None, {"when": "1"}))
