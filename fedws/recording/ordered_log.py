"""Log lines in the order of the events that they are about."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fedws.core.untrusted_text import to_line


@dataclass
class _QueueItem:
    """Lines that wait, or (``None``) are not known yet."""

    lines: Sequence[str] | None = None
    tag: Any = None


class OrderedLog:
    """Log lines in the order of what they tell of, however late some become known.

    >>> lines = OrderedLog(print)
    >>> release = lines.reserve()
    >>> lines.emit("round 2")
    >>> release("scores of round 1")
    scores of round 1
    round 2
    """

    def __init__(self, write_line: Callable[[str], None]) -> None:
        self._write_line = write_line
        self._queue: deque[_QueueItem] = deque()

    def emit(self, *lines: str) -> None:
        """Emit lines, once all that is held before them has been said."""
        if lines:
            self._queue.append(_QueueItem(lines=[to_line(text) for text in lines]))
            self._flush()

    def reserve(self, tag: Any = None) -> Callable[..., None]:
        """Keep a place; the function given back takes the lines that belong there, once.

        ``tag`` is for whoever would keep that place again, see :meth:`pending`.
        """
        entry = _QueueItem(tag=tag)
        self._queue.append(entry)

        def fill(*texts: str) -> None:
            entry.lines = [to_line(text) for text in texts]
            self._flush()

        return fill

    def pending(self) -> list[dict[str, Any]]:
        """What was not said yet, in its order: ``{"tag": ...}`` for a place that is kept, ``{"lines": [...]}``."""
        return [{"tag": it.tag} if it.lines is None else {"lines": list(it.lines)} for it in self._queue]

    def _flush(self) -> None:
        while self._queue and (texts := self._queue[0].lines) is not None:
            self._queue.popleft()
            for text in texts:
                self._write_line(text)
