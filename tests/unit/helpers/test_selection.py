"""Which tests a session leaves out, and that it counts them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.helpers import test_selection

FOLDER = Path("/checkout")


def item(nodeid: str, *marks: str) -> Any:
    """A test, as far as it is looked at."""
    path = FOLDER / nodeid.partition("::")[0]
    return SimpleNamespace(nodeid=nodeid, path=path, get_closest_marker=lambda mark: mark if mark in marks else None)


SHORT = item("tests/unit/test_a.py::test_short")
LONG = item("tests/unit/test_a.py::test_long", test_selection.MARK)
DIGITS = item("tests/unit/test_a.py::test_case[digits]", test_selection.MARK)
IN_A_CLASS = item("tests/unit/test_b.py::Test::test_it", test_selection.MARK)


def left_out(*arguments: str, expression: str = "") -> list[Any]:
    config: Any = SimpleNamespace(
        option=SimpleNamespace(markexpr=expression),
        invocation_params=SimpleNamespace(dir=FOLDER),
        args=list(arguments),
    )
    return test_selection.left_out([SHORT, LONG, DIGITS, IN_A_CLASS], config)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ([], [LONG, DIGITS, IN_A_CLASS]),
        (["tests"], [LONG, DIGITS, IN_A_CLASS]),
        (["tests/unit"], [LONG, DIGITS, IN_A_CLASS]),
        (["tests/unit/test_a.py"], [IN_A_CLASS]),
        (["/checkout/tests/unit/test_a.py"], [IN_A_CLASS]),
        (["tests/unit/test_a.py::test_long"], [DIGITS, IN_A_CLASS]),
        (["tests/unit/test_a.py::test_case"], [LONG, IN_A_CLASS]),
        (["tests/unit/test_a.py::test_case[digits]"], [LONG, IN_A_CLASS]),
        (["tests/unit/test_a.py::test_cas"], [LONG, DIGITS, IN_A_CLASS]),
        (["tests/unit/test_b.py::Test"], [LONG, DIGITS]),
        (["tests", "tests/unit/test_b.py"], [LONG, DIGITS]),
    ],
)
def test_long_tests_are_left_out_unless_they_are_named(arguments: list[str], wanted: list[Any]) -> None:
    assert left_out(*arguments) == wanted


@pytest.mark.parametrize("expression", ["long", "not long", "long or not long"])
def test_an_expression_of_marks_decides_alone(expression: str) -> None:
    assert left_out("tests", expression=expression) == []


def test_the_line_says_how_many_and_how_to_run_them() -> None:
    assert test_selection.told(3).startswith("left out 3 long tests: make test-long runs them")
