"""Conversion between sets of labels and short texts such as ``0-3``, ``0,5`` or ``0-2,7``."""

import re
from collections.abc import Iterable

from fedws.core.errors import UsageError
from fedws.core.untrusted_text import to_printable


def parse_labels(text: str, num_classes: int = 10) -> tuple[int, ...]:
    """Return the sorted labels in a text such as ``0-2,7``, without duplicates.

    Raises UsageError for another form, and for a label that is not below ``num_classes``.

    >>> parse_labels("0-2,7")
    (0, 1, 2, 7)
    """
    found: set[int] = set()
    flag = f"--labels {to_printable(text, 80)}"
    for part in text.split(","):
        matched = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part.strip())
        if matched is None:
            raise UsageError(
                f"{flag}: {to_printable(part, 80)!r} is not a label or a range; use the form 0-3 or 0,5 or 0-2,7"
            )
        first, last = int(matched[1]), int(matched[2] or matched[1])
        if first > last:
            raise UsageError(f"{flag}: the range {part.strip()} is reversed; use {last}-{first}")
        if last >= num_classes:
            raise UsageError(f"{flag}: label {last} is out of range; the data set has the labels 0-{num_classes - 1}")
        found.update(range(first, last + 1))
    return tuple(sorted(found))


def format_labels(labels: Iterable[int], max_chars: int = 0) -> str:
    """Return a set of labels as text, in the form that ``parse_labels`` accepts.

    A text longer than ``max_chars`` is truncated and followed by the number of labels; 0 means no limit.

    >>> format_labels([0, 1, 2, 7]), format_labels([4, 5]), format_labels([0, 5]), format_labels([4])
    ('0-2,7', '4-5', '0,5', '4')
    >>> format_labels(range(0, 2000, 2), 12)
    '0,2,4,6,8,... (1000 labels)'
    """
    labels = set(labels)
    runs: list[list[int]] = []
    for label in sorted(labels):
        if runs and runs[-1][-1] == label - 1:
            runs[-1].append(label)
        else:
            runs.append([label])
    text = ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    if not max_chars or len(text) <= max_chars:
        return text
    return f"{text[:max_chars].rpartition(',')[0]},... ({len(labels)} labels)"
