"""Text that others wrote, as one line that is safe on a terminal and in a log: a peer's, a library's, a plugin's.

:func:`to_printable` is the one place that decides which characters stay. What comes from a peer is cut to
:data:`MAX_TEXT_CHARS` where it becomes a part of a line, and every line is cut to :data:`MAX_LINE_CHARS` where it
leaves: in an error, in a log record, in a run's record, on a terminal.
"""

import logging
import traceback

MAX_TEXT_CHARS = 500
"""Characters of a text that others wrote."""
MAX_LINE_CHARS = 4000
"""Characters of a line of a log, a record or a terminal."""
MAX_TRACEBACK_LINES = 200
"""Lines of a traceback, the last ones."""


def to_printable(text: str, max_chars: int = MAX_TEXT_CHARS) -> str:
    """Return a text of others as one line, cut to ``max_chars`` characters.

    A character that Unicode does not count as printable becomes a question mark: controls, separators but the space,
    halves of a surrogate pair, and formats, among them all that turn the direction of a text.

    >>> to_printable("gone\\n\\x1b[2J\\u202e")
    'gone??[2J?'
    """
    text = text[:max_chars]
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in text)


def get_error_text(error: BaseException, max_chars: int = MAX_TEXT_CHARS) -> str:
    """Return the text of an error that is not of fedws, printable; its type where it has none.

    >>> get_error_text(OSError("no \\x9b2J route")), get_error_text(TimeoutError())
    ('no ?2J route', 'TimeoutError')
    """
    try:
        text = str(error)
    except Exception:  # the __str__ of a user's own class
        text = "its text cannot be read"
    return to_printable(" ".join(text[: 4 * max_chars].split()), max_chars) or type(error).__name__


def to_line(text: str, max_chars: int = MAX_LINE_CHARS) -> str:
    """Return a whole line as it may leave: the same text where it is printable and short.

    >>> to_line("a\\nb"), to_line("x" * 9, 8)
    ('a b', 'xxxxx...')
    """
    if len(text) > max_chars:
        text = text[: max_chars - 3] + "..."
    return text if text.isprintable() else to_printable(" ".join(text.split()), max_chars)


def format_traceback(error: BaseException) -> str:
    """Return the traceback of an error in printable lines."""
    return _to_last_lines("".join(traceback.format_exception(error)))


class PrintableFilter(logging.Filter):
    """Makes the text of each log record a printable line, and its traceback printable lines."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True; the record is changed only where it has to be."""
        try:
            text = record.getMessage()
        except Exception:  # arguments that do not fit, or whose __str__ raises
            text = f"{record.msg!s} (its arguments cannot be read)"
            record.args = None
        if record.args is None or to_line(text) != text:
            record.msg, record.args = to_line(text), None
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not record.exc_text:
            record.exc_text = format_traceback(error)  # which a formatter then takes as it is
        return True


def _to_last_lines(text: str) -> str:
    return "\n".join(to_line(each) for each in text.rstrip("\n").split("\n")[-MAX_TRACEBACK_LINES:])


PRINTABLE_FILTER = PrintableFilter()
"""The filter of the loggers and handlers of fedws."""
LOGGER_NAMES = ("fedws", "fedws.websockets", "fedws.mqtt.library")
"""The loggers of fedws. Their records are clean for every handler, also where a program of its own uses the library."""
for _name in LOGGER_NAMES:
    logging.getLogger(_name).addFilter(PRINTABLE_FILTER)
