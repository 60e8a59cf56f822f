"""Rules for the sources that setup.cfg cannot state: what code is called, whose names are used, how long a file is."""

import ast
from functools import cache
from pathlib import Path

import pytest

import fedws
from tests.helpers.support import REPOSITORY

MAX_LINES = 300
CODE_FROM_BYTES = ("eval", "exec", "compile", "torch.load")


@cache
def sources() -> tuple[Path, ...]:
    """Return the source files of the package and of the evaluator application."""
    found = [path for folder in ("fedws", "evaluator") for path in sorted((REPOSITORY / folder).rglob("*.py"))]
    assert len(found) > 40
    return tuple(found)


def place(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def imported(tree: ast.AST) -> set[str]:
    """Return the modules that a source imports, also within functions; relative imports are not allowed."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports are absolute"
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", sources(), ids=place)
def test_a_file_has_at_most_300_lines(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{place(path)} has {lines} lines"


@pytest.mark.parametrize("path", sources(), ids=place)
def test_no_call_turns_bytes_into_code(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    assert [ast.unparse(call.func) for call in calls if ast.unparse(call.func) in CODE_FROM_BYTES] == []


@pytest.mark.parametrize(
    "path", [path for path in sources() if not place(path).startswith(("fedws/cli/", "evaluator/"))], ids=place
)
def test_the_package_imports_a_name_from_the_file_that_defines_it(path: Path) -> None:
    """``import fedws`` is for users, and commands are users too."""
    assert "fedws" not in imported(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", [path for path in sources() if place(path).startswith("evaluator/")], ids=place)
def test_the_evaluator_uses_public_names_only(path: Path) -> None:
    """It is the example of a node that is not one of the package."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inner = [name for name in imported(tree) if name.startswith("fedws.")]
    assert not inner, f"{place(path)} imports {', '.join(inner)}"
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "fedws"
    }
    assert used <= set(fedws.__all__)


def test_imports_are_found() -> None:
    source = "import asyncio as a, json\nfrom fedws.core import plan\ndef later():\n    from websockets import client"
    assert imported(ast.parse(source)) == {"asyncio", "json", "fedws.core", "websockets"}
