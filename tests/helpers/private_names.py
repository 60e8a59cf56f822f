"""Uses of private names of libraries in our sources, and names that are also those of a base class."""

import ast
import inspect
import pkgutil
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.helpers.support import REPOSITORY

PACKAGES = ("fedws", "evaluator")


def private(name: str) -> bool:
    """Return whether a name begins with exactly one underscore."""
    return name.startswith("_") and not name.startswith("__") and name != "_"


@cache
def definitions(tree: ast.AST) -> frozenset[str]:
    """Return the names that are defined in a node: functions, classes, variables and attributes."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.id if isinstance(node, ast.Name) else node.attr)
    return frozenset(found)


@dataclass(frozen=True)
class Source:
    """One source file."""

    place: str
    tree: ast.Module

    def private_uses(self) -> Iterator[tuple[str, str]]:
        """Return the uses of private names that are not ours, with their places.

        A name of ``self`` is ours if its class or one of our base classes defines it. A name of ``super()`` is ours if
        one of our base classes defines it. Any other name is ours if our sources define it anywhere.
        """
        within: list[tuple[ast.AST, ast.ClassDef | None]] = [(self.tree, None)]
        while within:
            node, cls = within.pop()
            for child in ast.iter_child_nodes(node):
                within.append((child, child if isinstance(child, ast.ClassDef) else cls))
            if isinstance(node, ast.Attribute) and private(node.attr):
                if not _ours(node, cls):
                    yield node.attr, f"{self.place}:{node.lineno} {ast.unparse(node)}"
            elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith(PACKAGES):
                names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
                yield from ((name, f"{self.place}:{node.lineno}") for name in names if private(name))


def _ours(node: ast.Attribute, cls: ast.ClassDef | None) -> bool:
    receiver = ast.unparse(node.value)
    if cls is not None and receiver in ("self", "cls", "super()"):
        return any(node.attr in definitions(one) for one in _family(cls) if receiver != "super()" or one is not cls)
    return node.attr in everything()


def _family(cls: ast.ClassDef) -> Iterator[ast.ClassDef]:
    """Return a class, and our classes that it derives from."""
    yield cls
    for base in cls.bases:
        name = ast.unparse(base).partition("[")[0].rpartition(".")[2]
        for other in classes().get(name, ()):
            if other is not cls:
                yield from _family(other)


@cache
def sources() -> tuple[Source, ...]:
    """Return all our files."""
    paths = [path for package in PACKAGES for path in sorted((REPOSITORY / package).rglob("*.py"))]
    return tuple(Source(_place(path), ast.parse(path.read_text(encoding="utf-8"))) for path in paths)


def _place(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


@cache
def everything() -> set[str]:
    """Return all names that our files define."""
    return set().union(*(definitions(source.tree) for source in sources()))


@cache
def classes() -> dict[str, list[ast.ClassDef]]:
    """Return our classes by name."""
    found: dict[str, list[ast.ClassDef]] = {}
    for source in sources():
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(node)
    return found


@cache
def stored(cls: Any) -> frozenset[str]:
    """Return the names that the source of a class defines, and the attributes that it sets; empty for a class in C."""
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    except (OSError, TypeError, SyntaxError):
        return frozenset()
    assert isinstance(tree, ast.ClassDef)
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        else:
            found |= definitions(node)
    for inner in ast.walk(tree):
        if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store) and ast.unparse(inner.value) == "self":
            found.add(inner.attr)
    return frozenset(found)


@dataclass(frozen=True)
class Derived:
    """A class of ours with base classes in libraries."""

    cls: Any
    names: frozenset[str]
    """Names that the class defines or sets itself."""
    bases: tuple[Any, ...]


def foreign() -> Iterator[Derived]:
    """Return our classes that derive from a class of a library."""
    for package in PACKAGES:
        for info in pkgutil.walk_packages(import_module(package).__path__, f"{package}."):
            if info.name.endswith("__main__"):
                continue
            module = import_module(info.name)
            members: list[Any] = list(vars(module).values())
            for cls in members:
                if isinstance(cls, type) and cls.__module__ == module.__name__:
                    bases = tuple(base for base in cls.__mro__[:-1] if not base.__module__.startswith(PACKAGES))
                    made: Any = cls
                    if bases:
                        yield Derived(cls, stored(made), bases)
