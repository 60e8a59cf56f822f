"""What a node declares about its data when a coordinator connects, checked when the node starts."""

import operator
from collections.abc import Iterable

from fedws.core.errors import ProtocolError, UsageError
from fedws.core.limits import CLASSES, LABELS, Accepted
from fedws.data import samples
from fedws.data.base import Dataset
from fedws.network.base import HANDSHAKE
from fedws.protocol.decoder import Decoder
from fedws.protocol.encoder import encode
from fedws.protocol.messages import Welcome


def labels(data: Dataset, given: Iterable[int] | None, least: int) -> list[int]:
    """Return the labels to declare, ascending, each once: those ``given``, or those of the data if None.

    With ``least`` above 1, a label of fewer samples is left out. Labels of the data that are no classes, as -1 and
    100,000, are left out too; above :data:`fedws.core.limits.LABELS` none is declared. Raises UsageError when those
    ``given`` are not whole numbers from 0 to 99,999.
    """
    counted: dict[int, int] | None = None
    if given is None or least > 1:
        held = samples.labels(data)
        if held is not None:
            found, counts = held.unique(return_counts=True)
            counted = dict(zip(found.tolist(), counts.tolist(), strict=True))
    chosen = _whole(given) if given is not None else sorted(counted or {})
    chosen = [label for label in chosen if 0 <= label < CLASSES]
    if len(chosen) > LABELS:
        return []
    if counted is not None and least > 1:
        chosen = [label for label in chosen if counted.get(label, 0) >= least]
    return chosen


def checked(welcome: Welcome) -> Welcome:
    """Return ``welcome``. Raises UsageError unless a coordinator can read it as it is."""
    decoder = Decoder(HANDSHAKE)
    try:
        for piece in encode(welcome, Accepted(HANDSHAKE)).fragments():
            decoder.feed(piece)
        decoder.message()
    except (UsageError, ProtocolError) as error:
        raise UsageError(f"{welcome.node} cannot declare what it holds: {error}") from error
    return welcome


def _whole(given: Iterable[int]) -> list[int]:
    """Return labels as Python's integers, ascending, each once."""
    try:
        chosen = sorted({operator.index(label) for label in given})
    except TypeError as error:
        raise UsageError(f"labels must be whole numbers: {error}; number the classes from 0") from None
    if chosen and chosen[0] < 0:
        raise UsageError(f"labels must be 0 or more: one is {chosen[0]}; number the classes from 0")
    if chosen and chosen[-1] >= CLASSES:
        raise UsageError(f"labels must be below {CLASSES:,}: one is {chosen[-1]!s:.30}; number the classes from 0")
    return chosen
