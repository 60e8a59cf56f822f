"""The words of docs/topics/protocol.md for the types of fields."""

from typing import Any, Literal

from fedws.core.validation import Count
from fedws.protocol.messages import (
    DatasetName,
    Hex32Bytes,
    Identifier,
    Json,
    Labels,
    NumExamples,
    PrintableText,
    ResumeOffsets,
    Seconds,
    Seed,
    Signature,
    StateRound,
    Weight,
)

NEEDED = "must be there"
TYPES: dict[Any, str] = {
    str: "string",
    int: "integer",
    float: "float",
    bool: "boolean",
    Labels: "array of integers",
    NumExamples: "integer, 1 to 1099511627776",
    Weight: "integer, 0 to 1099511627776",
    StateRound: "integer, 0 or more",
    Seed: "integer, 0 to 18446744073709551615",
    DatasetName: "string of at most 256 characters",
    PrintableText: "text",
    Json: "map",
    dict[str, str]: "map of strings",
    ResumeOffsets: "map",
    Identifier: "name",
    Count: "integer, 1 or more",
    Seconds: "float, 0 or more",
    Hex32Bytes: "secret",
    Hex32Bytes | Literal[""]: 'secret or `""`',
    Signature: 'signature or `""`',
}
