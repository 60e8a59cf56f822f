"""Conversion of untrusted text, from a peer, library or plugin, to one line that is safe on a terminal and in a log.

Only ``to_printable`` decides which characters are kept. Text from a peer is truncated to ``MAX_TEXT_CHARS``
where it becomes part of a line. Every line is truncated to ``MAX_LINE_CHARS`` in an error, in a log record, in the
record of a run and on a terminal.
"""

import logging
import traceback

MAX_TEXT_CHARS = 500
"""Maximum number of characters of an untrusted text."""
MAX_LINE_CHARS = 4000
"""Maximum number of characters of a line in a log, in a record or on a terminal."""
MAX_TRACEBACK_LINES = 200
"""Maximum number of lines of a traceback, of which the last lines are kept."""


def to_printable(text: str, max_chars: int = MAX_TEXT_CHARS) -> str:
    """Return an untrusted text as one line of at most ``max_chars`` characters.

    Each character that Unicode does not define as printable is replaced by a question mark. These are control
    characters, separators except the space, surrogates, and format characters such as those that change the direction
    of text.

    >>> to_printable("gone\\n\\x1b[2J\\u202e")
    'gone??[2J?'
    """
    text = text[:max_chars]
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in text)


def get_error_text(error: BaseException, max_chars: int = MAX_TEXT_CHARS) -> str:
    """Return the printable text of an error of another library, or the name of its type if the text is empty.

    >>> get_error_text(OSError("no \\x9b2J route")), get_error_text(TimeoutError())
    ('no ?2J route', 'TimeoutError')
    """
    try:
        text = str(error)
    except Exception:  # the __str__ of a user's own class may raise
        text = "cannot read the error text"
    return to_printable(" ".join(text[: 4 * max_chars].split()), max_chars) or type(error).__name__


def to_line(text: str, max_chars: int = MAX_LINE_CHARS) -> str:
    """Return a text as one printable line of at most ``max_chars`` characters; such a line is unchanged.

    >>> to_line("a\\nb"), to_line("x" * 9, 8)
    ('a b', 'xxxxx...')
    """
    if len(text) > max_chars:
        text = text[: max_chars - 3] + "..."
    return text if text.isprintable() else to_printable(" ".join(text.split()), max_chars)


def format_traceback(error: BaseException) -> str:
    """Return the traceback of an error as printable lines."""
    return _to_last_lines("".join(traceback.format_exception(error)))


class PrintableFilter(logging.Filter):
    """A filter that converts the text of each log record to a printable line, and its traceback to printable lines."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Convert the record if necessary. Return True."""
        try:
            text = record.getMessage()
        except Exception:  # the arguments do not match the format, or their __str__ raises
            text = f"{record.msg!s} (cannot format the arguments)"
            record.args = None
        if record.args is None or to_line(text) != text:
            record.msg, record.args = to_line(text), None
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not record.exc_text:
            record.exc_text = format_traceback(error)  # a formatter uses an existing exc_text without changes
        return True


def _to_last_lines(text: str) -> str:
    return "\n".join(to_line(each) for each in text.rstrip("\n").split("\n")[-MAX_TRACEBACK_LINES:])


PRINTABLE_FILTER = PrintableFilter()
"""Filter of the loggers and handlers of fedws."""
LOGGER_NAMES = ("fedws", "fedws.websockets", "fedws.mqtt.library")
"""Names of the loggers of fedws.

The filter is attached to the loggers, so their records are printable for all handlers, also those of another program.
"""
for _name in LOGGER_NAMES:
    logging.getLogger(_name).addFilter(PRINTABLE_FILTER)
