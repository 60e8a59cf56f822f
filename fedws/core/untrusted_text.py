"""Text that others wrote, as one line that is safe on a terminal and in a log: a peer's, a library's, a plugin's.

:func:`printable` is the one place that decides which characters stay. What comes from a peer is cut to :data:`WORDS`
where it becomes a part of a line, and every line is cut to :data:`LINE` where it leaves: in an error, in a log record,
in a run's record, on a terminal.
"""

import logging
import traceback

WORDS = 500
"""Characters of a text that others wrote."""
LINE = 4000
"""Characters of a line of a log, a record or a terminal."""
TRACE = 200
"""Lines of a traceback, the last ones."""


def printable(text: str, length: int = WORDS) -> str:
    """Return a text of others as one line, cut to ``length`` characters.

    A character that Unicode does not count as printable becomes a question mark: controls, separators but the space,
    halves of a surrogate pair, and formats, among them all that turn the direction of a text.

    >>> printable("gone\\n\\x1b[2J\\u202e")
    'gone??[2J?'
    """
    text = text[:length]
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in text)


def words(error: BaseException, length: int = WORDS) -> str:
    """Return the text of an error that is not of fedws, printable; its type where it has none.

    >>> words(OSError("no \\x9b2J route")), words(TimeoutError())
    ('no ?2J route', 'TimeoutError')
    """
    try:
        text = str(error)
    except Exception:  # the __str__ of a user's own class
        text = "its text cannot be read"
    return printable(" ".join(text[: 4 * length].split()), length) or type(error).__name__


def line(text: str, length: int = LINE) -> str:
    """Return a whole line as it may leave: the same text where it is printable and short.

    >>> line("a\\nb"), line("x" * 9, 8)
    ('a b', 'xxxxx...')
    """
    if len(text) > length:
        text = text[: length - 3] + "..."
    return text if text.isprintable() else printable(" ".join(text.split()), length)


def trace(error: BaseException) -> str:
    """Return the traceback of an error in printable lines."""
    return _lines("".join(traceback.format_exception(error)))


class Clean(logging.Filter):
    """Makes the text of each log record a printable line, and its traceback printable lines."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True; the record is changed only where it has to be."""
        try:
            text = record.getMessage()
        except Exception:  # arguments that do not fit, or whose __str__ raises
            text = f"{record.msg!s} (its arguments cannot be read)"
            record.args = None
        if record.args is None or line(text) != text:
            record.msg, record.args = line(text), None
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not record.exc_text:
            record.exc_text = trace(error)  # which a formatter then takes as it is
        return True


def _lines(text: str) -> str:
    return "\n".join(line(each) for each in text.rstrip("\n").split("\n")[-TRACE:])


CLEAN = Clean()
"""The filter of the loggers and handlers of fedws."""
LOGGERS = ("fedws", "fedws.websockets", "fedws.mqtt.library")
"""The loggers of fedws. Their records are clean for every handler, also where a program of its own uses the library."""
for _name in LOGGERS:
    logging.getLogger(_name).addFilter(CLEAN)
