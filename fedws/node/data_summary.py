"""The data summary that a node declares when a coordinator connects, checked when the node starts."""

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
    """Return the labels to declare, ascending and unique: ``labels``, or the labels of the data if None.

    If ``min_samples`` is above 1, labels with fewer samples are left out. Labels of the data that are outside 0 to
    99,999 are left out too. If more than ``fedws.core.limits.MAX_DECLARED_LABELS`` labels remain, the list is
    empty. Raises UsageError if ``labels`` are not whole numbers from 0 to 99,999.
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
    """Return ``welcome`` if a coordinator can decode it. Raises UsageError otherwise."""
    decoder = Decoder(MAX_HANDSHAKE_MESSAGE_BYTES)
    try:
        for piece in encode_message(welcome, MessageLimits(MAX_HANDSHAKE_MESSAGE_BYTES)).fragments():
            decoder.feed(piece)
        decoder.build_message()
    except (UsageError, ProtocolError) as error:
        raise UsageError(f"{welcome.node} cannot declare its data: {error}") from error
    return welcome


def _check_labels(labels: Iterable[int]) -> list[int]:
    """Return labels as Python integers, ascending and unique."""
    try:
        chosen = sorted({operator.index(label) for label in labels})
    except TypeError as error:
        raise UsageError(f"labels must be whole numbers: {error}; number the classes from 0") from None
    if chosen and chosen[0] < 0:
        raise UsageError(f"labels must be 0 or more, got {chosen[0]}; number the classes from 0")
    if chosen and chosen[-1] >= MAX_CLASSES:
        raise UsageError(f"labels must be below {MAX_CLASSES:,}, got {chosen[-1]!s:.30}; number the classes from 0")
    return chosen
