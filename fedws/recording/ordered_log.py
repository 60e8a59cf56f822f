"""A log with lines in the order of the events that they describe."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fedws.core.untrusted_text import to_line


@dataclass
class _QueueItem:
    """A place in the queue, with its lines or None until they are known."""

    lines: Sequence[str] | None = None
    tag: Any = None


class OrderedLog:
    """A log that emits lines in the order of their events, even if some lines become known late.

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
        """Emit lines as soon as everything before them is emitted."""
        if lines:
            self._queue.append(_QueueItem(lines=[to_line(text) for text in lines]))
            self._flush()

    def reserve(self, tag: Any = None) -> Callable[..., None]:
        """Reserve a place in the log, and return a function that fills it with lines.

        The function may be called once. ``pending`` returns ``tag``, so that a resumed run can reserve the place
        again.
        """
        entry = _QueueItem(tag=tag)
        self._queue.append(entry)

        def fill(*texts: str) -> None:
            entry.lines = [to_line(text) for text in texts]
            self._flush()

        return fill

    def pending(self) -> list[dict[str, Any]]:
        """Return what is not emitted yet, in order.

        An item is ``{"tag": ...}`` for a reserved place, or ``{"lines": [...]}``.
        """
        return [{"tag": it.tag} if it.lines is None else {"lines": list(it.lines)} for it in self._queue]

    def _flush(self) -> None:
        while self._queue and (texts := self._queue[0].lines) is not None:
            self._queue.popleft()
            for text in texts:
                self._write_line(text)
