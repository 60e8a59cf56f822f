"""A reader of docs/topics/protocol.md: its sections, tables and examples."""

import json
import re
from collections.abc import Iterator
from typing import Any

import torch

from fedws.core.tensors import DTYPES
from fedws.protocol.messages import MESSAGE_TYPES, Message
from tests.helpers.support import REPOSITORY

TEXT = (REPOSITORY / "docs" / "topics" / "protocol.md").read_text(encoding="utf-8")
WORDS = " ".join(TEXT.split())
"""Text of the page with each line end as a space, to find a sentence."""
KEY = bytes(range(32))
"""Network key of the test vector and of the example."""


def section(title: str) -> str:
    """Return the text under the heading that begins so, up to the next heading."""
    found = re.findall(rf"^#+ {re.escape(title)}.*?\n(.*?)(?=^#|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert len(found) == 1, f"{len(found)} headings begin with {title!r}"
    return str(found[0])


def tables(text: str) -> Iterator[list[dict[str, str]]]:
    """Return the tables of a text as rows by column, without marks of code."""
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines())
        yield [{key: _bare(cell) for key, cell in zip(head, row, strict=True)} for row in rows]


def table(text: str, first: str) -> list[dict[str, str]]:
    """Return the one table of a text whose first column has that head."""
    (found,) = (rows for rows in tables(text) if next(iter(rows[0])) == first)
    return found


def _bare(cell: str) -> str:
    return cell[1:-1] if re.fullmatch(r"`[^`]*`", cell) else cell


def examples() -> list[tuple[dict[str, Any], str]]:
    """Return every example: its content and its hexadecimal dump."""
    return [
        (json.loads(content), dump)
        for content, dump in re.findall(r"```json\n(.*?)```\n\n```hex\n(.*?)```", TEXT, re.S)
    ]


def parse_message(content: dict[str, Any]) -> Message:
    """Return the message that an example's content describes."""
    tensors = {
        entry["name"]: torch.tensor(entry["values"], dtype=DTYPES[entry["dtype"]]).reshape(entry["shape"])
        for entry in content["tensors"]
    }
    fields: dict[str, Any] = content["fields"] | ({"tensors": tensors} if tensors else {})
    return MESSAGE_TYPES[content["type"]](**fields)


def example(kind: type[Message]) -> Any:
    """Return the one message of that kind among the examples."""
    (found,) = (message for content, _ in examples() if isinstance(message := parse_message(content), kind))
    return found
