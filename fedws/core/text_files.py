"""Reader of the text files that users write: plans, policies, network keys and passwords."""

import codecs
from pathlib import Path

from fedws.core.errors import UsageError

_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


def read_text(path: Path, name: str, max_bytes: int = -1) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 with a byte-order mark, without the mark.

    Windows editors and PowerShell write byte-order marks. At most ``max_bytes`` bytes are read; a negative number reads
    all. Raises OSError, and UsageError with ``name`` if the file is not text in one of these encodings.
    """
    with path.open("rb") as file:
        data = file.read(max_bytes)
    mark = next((mark for mark in _BYTE_ORDER_MARKS if data.startswith(mark)), b"")
    try:
        text = data[len(mark) :].decode(_BYTE_ORDER_MARKS.get(mark, "utf-8"))
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # also UTF-16 without a mark
        raise UsageError(f"{name}: not a text file in UTF-8; save it as UTF-8")
    return text
