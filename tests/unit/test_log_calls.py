"""A node logs by :class:`fedws.gate.Complaints`, which bounds what a peer can cause; any other log call is listed."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.support import REPOSITORY

NODE = (
    "service.py", "worker.py", "dialout.py", "turns.py", "unfinished.py", "uploads.py", "blobs.py", "transfers.py",
    "audit.py", "policy.py", "workspace.py", "handshake.py", "websocket", "mqtt", "transport", "stores",
)  # fmt: skip
"""Files and folders of what runs on a node and meets peers' bytes."""
ONCE = {("service.py", "asked")}
"""Functions that log when a node starts."""


def _files() -> Iterator[tuple[str, Path]]:
    for name in NODE:
        place = REPOSITORY / "fedws" / name
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
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
        if called[0] in ("log", "_log", "logging", "print") and called[-1] not in ("getLogger", "setLevel"):
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
