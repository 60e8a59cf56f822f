"""Types of settings and of message fields, with the values that each allows."""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    Field,
    ValidationError,
)

from fedws.core.untrusted_text import to_printable

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
NODE_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
NodeId = Annotated[str, Field(pattern=NODE_ID_PATTERN)]
_NODE_ID_RULE = "use at most 64 of the letters a-z and A-Z, digits, '.', '_' and '-', and begin with a letter or digit"


def check_node_id(text: str) -> None:
    """Raise ValueError, which states the rule, unless ``text`` is a valid node id."""
    if not re.fullmatch(NODE_ID_PATTERN, text):
        raise ValueError(f"{to_printable(repr(text), 80)} is not a valid node id; {_NODE_ID_RULE}")


def describe_setting_error(error: ValidationError) -> str:
    """Return a one-line description of the first invalid setting."""
    first = error.errors(include_url=False)[0]
    parts = [str(part) for part in first["loc"] if part != "[key]"]
    place = to_printable(".".join(part if part.isprintable() else repr(part) for part in parts), 80)
    message = to_printable(first["msg"].removeprefix("Value error, "))
    given = to_printable(repr(first["input"]), 80)
    if first["type"] == "extra_forbidden":
        return f"unknown setting '{place}'"
    if first["type"] == "string_pattern_mismatch":
        setting = ".".join(parts[:-1]) if parts[-1] == first["input"] else place
        return f"{to_printable(setting, 80)}: {given} is not a valid node id; {_NODE_ID_RULE}"
    if first["type"] == "value_error" or isinstance(first["input"], dict):
        return f"{place}: {message}" if place else message
    return f"{place}: {message}, not {given}"


def _paths_to_strings(files: Any) -> Any:
    files = [files] if isinstance(files, str | Path) else files
    return (
        tuple(str(file) if isinstance(file, Path) else file for file in files)
        if isinstance(files, list | tuple)
        else files
    )


PathString = Annotated[str, BeforeValidator(lambda file: str(file) if isinstance(file, Path) else file)]


PathStrings = Annotated[tuple[str, ...], BeforeValidator(_paths_to_strings)]
