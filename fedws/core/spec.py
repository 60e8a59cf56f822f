"""Specs of pieces: parsing of ``NAME[:value][,key=value...]``, and conversion of the options to their types."""

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
    """The name of a piece and its options as text.

    ``value`` is the text after the colon, which sets the first option of the piece.

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
        """Parse ``NAME[:value][,key=value...]``. Raises UsageError for a part that is not ``key=value``."""
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
                raise UsageError(f"{text!r}: {part!r} is not key=value; use the form NAME[:value][,key=value...]")
            found[key.strip().replace("-", "_")] = setting.strip()
        return cls(name.strip(), value, found)


def parse_options(kind: str, factory: Callable[..., Any], spec: Spec) -> dict[str, Any]:
    """Return the options of a spec, converted to the types of the factory's keyword-only parameters.

    ``spec.value`` belongs to the first of these parameters. Only the annotations of the given options are evaluated, so
    other annotations may name types that are imported only for type checkers.

    Raises UnknownName for an unknown option. Raises UsageError for an invalid value, and for a type that cannot be
    resolved at run time.
    """
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError) as error:  # raised for some callables that are written in C
        raise UsageError(f"{kind} {spec.name}: cannot read its options: {summarize_error(error)}") from error
    known = [p.name for p in parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    texts = dict(spec.options)
    if spec.value is not None:
        if not known:
            raise UsageError(f"{kind} {spec.name} does not accept a value")
        if known[0] in texts:
            raise UsageError(f"{kind} {spec.name}: duplicate option {known[0]!r}")
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
    """An annotation of an option that cannot be resolved at run time, or to which text cannot be converted."""


def _build_adapter(factory: Callable[..., Any], parameter: inspect.Parameter) -> TypeAdapter[Any]:
    """Return an adapter that converts text to the type of the parameter, or to ``str`` if it has no annotation.

    Raises _UnreadableOption.
    """
    hint = parameter.annotation
    if hint is parameter.empty:
        return TypeAdapter(str)

    def annotated() -> None:
        """Do nothing; the annotation of the parameter is assigned below."""

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
        annotation = hint if isinstance(hint, str) else inspect.formatannotation(hint)
        problem = f"cannot resolve its type {annotation} ({summarize_error(failure)})"
        solution = "import it at run time, not only under TYPE_CHECKING"
        raise _UnreadableOption(f"{problem}; {solution}") from failure
    try:
        return TypeAdapter(hint)
    except (PydanticUserError, NameError) as error:
        raise _UnreadableOption(f"cannot convert text to {inspect.formatannotation(hint)}") from error


def _iter_namespaces(factory: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    """Yield the global namespaces in which an annotation of the factory may be defined.

    The namespaces of base classes are included, because a data class inherits fields from them.
    """
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
