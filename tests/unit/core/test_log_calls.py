"""A node logs by ``fedws.core.rate_limited_log.RateLimitedLog``, which bounds what peers can cause; other calls
are listed."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.support import REPOSITORY

OTHERS = (
    "cli/",
    "coordinator/",
    "simulation/",
    "core/rate_limited_log.py",
    "recording/run_directory.py",
    "recording/run_log.py",
)
"""Files and folders of what does not run on a node, and of what bounds the lines."""
ONCE = {
    ("node/node_credentials.py", "resolve_node_credentials"),
    ("core/private_files.py", "warn_if_exposed"),
    ("data/download.py", "_hold_file_lock"),
    ("data/download.py", "_download"),
}
"""Functions that log when a node starts, or when its owner's data set is downloaded."""
METHODS = ("debug", "info", "warning", "error", "critical", "exception", "log", "print")


def _files() -> Iterator[tuple[str, Path]]:
    """Yield every other file, with its path below the package."""
    package = REPOSITORY / "fedws"
    for file in sorted(package.rglob("*.py")):
        name = file.relative_to(package).as_posix()
        if not name.startswith(OTHERS):
            yield name, file


def _logging(tree: ast.AST) -> Iterator[str]:
    """Yield the functions that call a method of a logger; ``?`` for the module itself."""
    inside = {
        inner: function.name
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(function)
    }
    for node in ast.walk(tree):
        called = ast.unparse(node.func).split(".") if isinstance(node, ast.Call) else [""]
        if called[0] in ("log", "_log", "logging", "print") and called[-1] in METHODS:
            yield inside.get(node, "?")


def test_a_node_logs_what_peers_cause_at_a_bounded_rate() -> None:
    found = {
        (name, where) for name, file in _files() for where in _logging(ast.parse(file.read_text(encoding="utf-8")))
    }
    assert found == ONCE


def test_calls_of_a_logger_are_found() -> None:
    source = (
        "log.info('a')\nasync def f():\n    def g():\n        log.warning('b')\n    print('c')\n    other.info('d')\n"
    )
    assert sorted(_logging(ast.parse(source))) == ["?", "f", "g"]
