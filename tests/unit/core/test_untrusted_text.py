"""Text of others as a line: nothing that a terminal would obey, nothing that is long."""

import logging
import unicodedata
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from fedws.core import errors, untrusted_text
from fedws.core.error_location import placed, summary, told
from fedws.core.errors import FedwsError, Refused, UsageError
from fedws.core.plan import explain
from fedws.core.untrusted_text import CLEAN, LINE, LOGGERS, TRACE, WORDS, line, printable, trace, words
from fedws.protocol.header import problem

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
    found = printable(text)
    assert clean(found, WORDS) and len(found) == min(len(text), WORDS)
    assert not any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") for letter in found)
    assert clean(line(text), LINE) and (line(text) == text or not clean(text, LINE))


def test_a_text_is_short() -> None:
    for found, length in ((printable(FOREIGN), WORDS), (words(OSError(FOREIGN)), WORDS), (line(FOREIGN), LINE)):
        assert clean(found, length)
    assert printable("é and 漢字 stay") == "é and 漢字 stay"
    assert line("one\n\ttwo") == "one two"


@pytest.mark.parametrize("error", [OSError(FOREIGN), SyntaxError(FOREIGN), KeyError(FOREIGN), Broken(), OSError()])
def test_the_text_of_any_error_is_a_line(error: Exception) -> None:
    for say in (words, summary, placed, told):
        assert clean(say(error), LINE) and say(error)


@pytest.mark.parametrize(
    "kind", [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FedwsError)]
)
def test_the_text_of_every_error_of_fedws_is_a_line(kind: type[FedwsError]) -> None:
    given = {
        "Refused": ("busy", FOREIGN),
        "TryLater": (FOREIGN, 1.0),
        "Undelivered": (None, FOREIGN),
        "UnknownName": ("model", FOREIGN, [FOREIGN]),
    }
    error = kind(*given.get(kind.__name__, (FOREIGN,)))
    assert clean(str(error), LINE) and clean(str(UsageError(f"{error}: {error}")), LINE)
    assert all(clean(each, LINE) for each in error.args if isinstance(each, str))


def test_a_traceback_is_lines() -> None:
    try:
        try:
            raise OSError(FOREIGN)
        except OSError as error:
            raise ValueError("\n" * 1000 + HOSTILE) from error
    except ValueError as error:
        lines = trace(error).split("\n")
    assert len(lines) <= TRACE and all(clean(each, LINE) for each in lines)


@pytest.fixture(params=LOGGERS)
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
        assert all(clean(text, LINE) for text in logging.Formatter("%(message)s").format(each).split("\n"))


def test_a_record_that_is_clean_already_is_not_changed() -> None:
    error = Refused("key", "no")
    record = logging.LogRecord("fedws", logging.INFO, "", 1, "x %s", (error,), None)
    assert CLEAN.filter(record) and record.args == (error,)
    assert all(CLEAN in logging.getLogger(name).filters for name in untrusted_text.LOGGERS)


def test_what_is_wrong_with_a_peers_value_is_told_shortly() -> None:
    """A setting or a metric is quoted, and cut."""
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(dict[str, float]).validate_python({FOREIGN: FOREIGN})
    assert clean(explain(caught.value), 300) and clean(problem(caught.value), 300)
