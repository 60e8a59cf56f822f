"""A piece's name and options as text, and the options as the types that its factory declares."""

import functools
import inspect
import sys
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from fedws.core.error_text import summarize_error
from fedws.core.errors import UnknownName, UsageError


@dataclass(frozen=True)
class Spec:
    """A piece's name and its options as text.

    >>> Spec.parse("dirichlet:0.5,seed=3")
    Spec(name='dirichlet', value='0.5', options={'seed': '3'})
    >>> Spec.parse("fedbuff:buffer_size=2")
    Spec(name='fedbuff', value=None, options={'buffer_size': '2'})
    """

    name: str
    value: str | None
    options: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> "Spec":
        """Read ``NAME[:value][,key=value...]``. Raises UsageError."""
        head, *rest = text.split(",")
        name, colon, first = head.partition(":")
        value = None
        if colon and "=" in first:
            rest.insert(0, first)
        elif colon:
            value = first
        found: dict[str, str] = {}
        for part in rest:
            key, equals, setting = part.partition("=")
            if not equals or not key.strip():
                raise UsageError(f"{text!r}: {part!r} is not key=value; the form is NAME[:value][,key=value...]")
            found[key.strip().replace("-", "_")] = setting.strip()
        return cls(name.strip(), value, found)


def parse_options(kind: str, factory: Callable[..., Any], spec: Spec) -> dict[str, Any]:
    """The spec's options, typed by the factory's keyword-only parameters; ``value`` is the first of them.

    Only the types of the options that are given are read, so that other annotations may name what is imported for type
    checkers alone. Raises UsageError, also for a type that does not exist when the program runs.
    """
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError) as error:  # of some callables in C
        raise UsageError(f"{kind} {spec.name}: its options cannot be read: {summarize_error(error)}") from error
    known = [p.name for p in parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    texts = dict(spec.options)
    if spec.value is not None:
        if not known:
            raise UsageError(f"{kind} {spec.name} takes no value")
        if known[0] in texts:
            raise UsageError(f"{kind} {spec.name}: {known[0]} is given twice")
        texts[known[0]] = spec.value
    result = {}
    for key, text in texts.items():
        if key not in known:
            raise UnknownName(f"option of {kind} {spec.name}", key, known)
        try:
            result[key] = _build_adapter(factory, parameters[key]).validate_python(text)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]["msg"]
            raise UsageError(f"{kind} {spec.name}: {key}: {problem}, not {text!r}") from None
        except _UnreadableOption as error:
            raise UsageError(f"{kind} {spec.name}: {key}: {error}") from error
    return result


class _UnreadableOption(Exception):
    """An option's annotation that is not a type when the program runs, or not one that a text can be read as."""


def _build_adapter(factory: Callable[..., Any], parameter: inspect.Parameter) -> TypeAdapter[Any]:
    """Return what reads a text as the parameter's type; as text where it has none. Raises _UnreadableOption."""
    hint = parameter.annotation
    if hint is parameter.empty:
        return TypeAdapter(str)

    def annotated() -> None:
        """Have no annotations but this one."""

    annotated.__annotations__ = {parameter.name: hint}
    failure: Exception | None = None
    for names in _iter_namespaces(factory):
        try:
            hint = typing.get_type_hints(annotated, names, include_extras=True)[parameter.name]
            break
        except Exception as error:  # an annotation may be any expression
            failure = failure or error
    else:
        assert failure is not None
        told = hint if isinstance(hint, str) else inspect.formatannotation(hint)
        problem = f"its type {told} cannot be resolved ({summarize_error(failure)})"
        solution = "import it where the program runs, not only under TYPE_CHECKING"
        raise _UnreadableOption(f"{problem}; {solution}") from failure
    try:
        return TypeAdapter(hint)
    except (PydanticUserError, NameError) as error:
        raise _UnreadableOption(f"a text cannot be read as {inspect.formatannotation(hint)}") from error


def _iter_namespaces(factory: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    """Yield the globals that an annotation of the factory may stand in; those of base classes for inherited fields."""
    target: Any = inspect.unwrap(factory)
    while isinstance(target, functools.partial):
        target = inspect.unwrap(target.func)
    if not inspect.isclass(target) and hasattr(target, "__globals__"):
        yield target.__globals__
        return
    found = target if inspect.isclass(target) else type(target)
    for name in ("__init__", "__new__") if inspect.isclass(target) else ("__call__",):
        yield getattr(inspect.unwrap(getattr(found, name)), "__globals__", {})
    for base in found.__mro__:
        yield vars(sys.modules[base.__module__]) if base.__module__ in sys.modules else {}
