"""What a node declares about its data when a coordinator connects, checked when the node starts."""

import operator
from collections.abc import Iterable

from fedws.core.errors import ProtocolError, UsageError
from fedws.core.limits import MAX_CLASSES, MAX_DECLARED_LABELS, MessageLimits
from fedws.data import targets
from fedws.data.base import Dataset
from fedws.network.base import MAX_HANDSHAKE_MESSAGE_BYTES
from fedws.protocol.decoder import Decoder
from fedws.protocol.encoder import encode_message
from fedws.protocol.messages import Welcome


def declared_labels(data: Dataset, labels: Iterable[int] | None, min_samples: int) -> list[int]:
    """Return the labels to declare, ascending, each once: those ``labels``, or those of the data if None.

    With ``min_samples`` above 1, a label of fewer samples is left out. Labels of the data that are no classes, as -1
    and 100,000, are left out too; above :data:`fedws.core.limits.MAX_DECLARED_LABELS` none is declared. Raises
    UsageError when those ``labels`` are not whole numbers from 0 to 99,999.
    """
    counted: dict[int, int] | None = None
    if labels is None or min_samples > 1:
        present_labels = targets.find_labels(data)
        if present_labels is not None:
            found, counts = present_labels.unique(return_counts=True)
            counted = dict(zip(found.tolist(), counts.tolist(), strict=True))
    chosen = _check_labels(labels) if labels is not None else sorted(counted or {})
    chosen = [label for label in chosen if 0 <= label < MAX_CLASSES]
    if len(chosen) > MAX_DECLARED_LABELS:
        return []
    if counted is not None and min_samples > 1:
        chosen = [label for label in chosen if counted.get(label, 0) >= min_samples]
    return chosen


def check_welcome(welcome: Welcome) -> Welcome:
    """Return ``welcome``. Raises UsageError unless a coordinator can read it as it is."""
    decoder = Decoder(MAX_HANDSHAKE_MESSAGE_BYTES)
    try:
        for piece in encode_message(welcome, MessageLimits(MAX_HANDSHAKE_MESSAGE_BYTES)).fragments():
            decoder.feed(piece)
        decoder.build_message()
    except (UsageError, ProtocolError) as error:
        raise UsageError(f"{welcome.node} cannot declare what it holds: {error}") from error
    return welcome


def _check_labels(labels: Iterable[int]) -> list[int]:
    """Return labels as Python's integers, ascending, each once."""
    try:
        chosen = sorted({operator.index(label) for label in labels})
    except TypeError as error:
        raise UsageError(f"labels must be whole numbers: {error}; number the classes from 0") from None
    if chosen and chosen[0] < 0:
        raise UsageError(f"labels must be 0 or more: one is {chosen[0]}; number the classes from 0")
    if chosen and chosen[-1] >= MAX_CLASSES:
        raise UsageError(f"labels must be below {MAX_CLASSES:,}: one is {chosen[-1]!s:.30}; number the classes from 0")
    return chosen
