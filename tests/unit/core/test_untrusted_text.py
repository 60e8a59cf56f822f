"""Text of others as a line: nothing that a terminal would obey, nothing that is long."""

import logging
import unicodedata
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from fedws.core import errors, untrusted_text
from fedws.core.error_text import describe_error, describe_with_location, summarize_error
from fedws.core.errors import FedwsError, LinkRefused, UsageError
from fedws.core.untrusted_text import (
    LOGGER_NAMES,
    MAX_LINE_CHARS,
    MAX_TEXT_CHARS,
    MAX_TRACEBACK_LINES,
    PRINTABLE_FILTER,
    format_traceback,
    get_error_text,
    to_line,
    to_printable,
)
from fedws.core.validation import describe_setting_error
from fedws.protocol.header import describe_schema_error

HOSTILE = "\x1b[2J\x9b2J\r\n\x00\u202e\u2066\u200b\ufeff\u2028\ue000\udcff"
"""Control sequences in both forms, line ends, and formats that turn or hide text."""
FOREIGN = HOSTILE + "x" * 500_000


class Broken(Exception):
    def __str__(self) -> str:
        raise ValueError


def clean(text: str, length: int) -> bool:
    return text.isprintable() and len(text) <= length


@given(st.text() | st.text(st.sampled_from(HOSTILE)))
def test_what_stays_is_printable(text: str) -> None:
    found = to_printable(text)
    assert clean(found, MAX_TEXT_CHARS) and len(found) == min(len(text), MAX_TEXT_CHARS)
    assert not any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") for letter in found)
    assert clean(to_line(text), MAX_LINE_CHARS) and (to_line(text) == text or not clean(text, MAX_LINE_CHARS))


def test_a_text_is_short() -> None:
    for found, length in (
        (to_printable(FOREIGN), MAX_TEXT_CHARS),
        (get_error_text(OSError(FOREIGN)), MAX_TEXT_CHARS),
        (to_line(FOREIGN), MAX_LINE_CHARS),
    ):
        assert clean(found, length)
    assert to_printable("é and 漢字 stay") == "é and 漢字 stay"
    assert to_line("one\n\ttwo") == "one two"


@pytest.mark.parametrize("error", [OSError(FOREIGN), SyntaxError(FOREIGN), KeyError(FOREIGN), Broken(), OSError()])
def test_the_text_of_any_error_is_a_line(error: Exception) -> None:
    for say in (get_error_text, summarize_error, describe_with_location, describe_error):
        assert clean(say(error), MAX_LINE_CHARS) and say(error)


@pytest.mark.parametrize(
    "kind", [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FedwsError)]
)
def test_the_text_of_every_error_of_fedws_is_a_line(kind: type[FedwsError]) -> None:
    given = {
        "LinkRefused": ("busy", FOREIGN),
        "RetryLater": (FOREIGN, 1.0),
        "BodyUnavailable": (None, FOREIGN),
        "UnknownName": ("model", FOREIGN, [FOREIGN]),
    }
    error = kind(*given.get(kind.__name__, (FOREIGN,)))
    assert clean(str(error), MAX_LINE_CHARS) and clean(str(UsageError(f"{error}: {error}")), MAX_LINE_CHARS)
    assert all(clean(each, MAX_LINE_CHARS) for each in error.args if isinstance(each, str))


def test_a_traceback_is_lines() -> None:
    try:
        try:
            raise OSError(FOREIGN)
        except OSError as error:
            raise ValueError("\n" * 1000 + HOSTILE) from error
    except ValueError as error:
        lines = format_traceback(error).split("\n")
    assert len(lines) <= MAX_TRACEBACK_LINES and all(clean(each, MAX_LINE_CHARS) for each in lines)


@pytest.fixture(params=LOGGER_NAMES)
def record(request: pytest.FixtureRequest) -> Iterator[list[logging.LogRecord]]:
    """What a handler of a program of its own gets of a logger of fedws."""
    found: list[logging.LogRecord] = []
    log = logging.getLogger(request.param)
    handler = logging.Handler()
    handler.emit = found.append  # type: ignore[method-assign,assignment]
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    log.warning("plain %d", 7)
    log.warning("hostile %s", FOREIGN)
    log.warning("wrong %d", HOSTILE)
    log.warning("broken %s", Broken())
    log.debug("traceback", exc_info=OSError(FOREIGN))
    yield found
    log.removeHandler(handler)
    log.setLevel(level)


def test_every_log_record_is_a_line(record: list[logging.LogRecord]) -> None:
    plain, *others = record
    assert (plain.msg, plain.args) == ("plain %d", (7,)), "what is clean stays as it is"
    assert len(others) == 4
    for each in others:
        assert all(clean(text, MAX_LINE_CHARS) for text in logging.Formatter("%(message)s").format(each).split("\n"))


def test_a_record_that_is_clean_already_is_not_changed() -> None:
    error = LinkRefused("key", "no")
    record = logging.LogRecord("fedws", logging.INFO, "", 1, "x %s", (error,), None)
    assert PRINTABLE_FILTER.filter(record) and record.args == (error,)
    assert all(PRINTABLE_FILTER in logging.getLogger(name).filters for name in untrusted_text.LOGGER_NAMES)


def test_what_is_wrong_with_a_peers_value_is_told_shortly() -> None:
    """A setting or a metric is quoted, and cut."""
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(dict[str, float]).validate_python({FOREIGN: FOREIGN})
    assert clean(describe_setting_error(caught.value), 300) and clean(describe_schema_error(caught.value), 300)
