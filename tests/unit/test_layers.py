"""The order of the house: who may import whom, and what stands in one place only. Imports are read, not run."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import fedws
from tests.support import REPOSITORY

ASYNC = (
    "fedws/network/",
    "fedws/network/stored_bodies.py",
    "fedws/node/server.py",
    "fedws/node/run_lease.py",
    "fedws/node/dial_out.py",
    "fedws/coordinator/",
    "fedws/simulation/",
    "evaluator/",
    "fedws/cli/",
)
"""Where asyncio may be imported: where links are, and where programs begin."""
ONCE = (
    "aiomqtt", "paho", "boto3", "botocore", "cryptography.x509", "cryptography.hazmat.primitives.ciphers",
    "cryptography.hazmat.primitives.asymmetric.ed25519",
    "matplotlib", "tensorboardX", "uvloop", "msgpack", "scipy",
)  # fmt: skip
"""Libraries that one file knows, so that replacing one is a change of one file."""
NEVER = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
"""What turns bytes into code."""
LONGEST = 300


@dataclass(frozen=True)
class File:
    """A source file, and what it imports when it runs: all but what is imported for types alone."""

    path: Path
    name: str
    """As a module: ``fedws.protocol.encoder``."""
    tree: ast.Module
    imports: frozenset[str]

    @property
    def place(self) -> str:
        """``fedws/protocol/encoder.py``."""
        return self.path.relative_to(REPOSITORY).as_posix()


@cache
def files() -> tuple[File, ...]:
    paths = [path for folder in ("fedws", "evaluator") for path in sorted((REPOSITORY / folder).rglob("*.py"))]
    assert len(paths) > 40, "these are the sources"
    return tuple(_file(path) for path in paths)


def _file(path: Path) -> File:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return File(path, name, tree, frozenset(_imports(tree)))


def _imports(node: ast.AST) -> Iterator[str]:
    """Every module imported in a node, also within functions; for ``from a import b``, ``a.b`` where it is one."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0 and node.module, "imports are absolute"
        for alias in node.names:
            inner = REPOSITORY.joinpath(*node.module.split("."), alias.name)
            module = inner.with_suffix(".py").is_file() or (inner / "__init__.py").is_file()
            yield f"{node.module}.{alias.name}" if module else node.module
    elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        yield from (name for child in node.orelse for name in _imports(child))
    else:
        yield from (name for child in ast.iter_child_nodes(node) for name in _imports(child))


def own(file: File) -> list[File]:
    """Our files that a file imports."""
    return [other for other in files() if other.name in file.imports and other is not file]


def within(file: File) -> list[File]:
    """The files of fedws that a file imports, but for the front door."""
    return [other for other in own(file) if other.name.startswith("fedws.")]


def layered() -> list[File]:
    """Every file of fedws but its front door."""
    return [file for file in files() if file.name.startswith("fedws.")]


def beneath_commands() -> list[File]:
    """Return every file of fedws but its front door and the commands."""
    return [file for file in layered() if not file.name.startswith("fedws.cli.")]


def test_nothing_within_fedws_comes_in_by_the_front_door() -> None:
    """``import fedws`` is for users; within, a name is imported from the file that has it. Commands are users too."""
    assert [
        file.place for file in layered() if "fedws" in file.imports and not file.name.startswith("fedws.cli.")
    ] == []


def test_only_commands_know_the_evaluator() -> None:
    assert [
        file.place for file in layered() if not file.name.startswith("fedws.cli.") and file in _users_of("evaluator")
    ] == []


def _users_of(package: str) -> list[File]:
    return [file for file in files() if any(f"{name}.".startswith(f"{package}.") for name in file.imports)]


def test_there_is_no_import_cycle() -> None:
    graph = {file.name: {other.name for other in own(file)} for file in files()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"an import cycle: {' <- '.join(error.args[1])}")


def of(library: str) -> list[str]:
    """The files that import a library or a part of it."""
    return [file.place for file in _users_of(library)]


def test_asyncio_is_where_links_are() -> None:
    assert [place for place in of("asyncio") if not place.startswith(ASYNC)] == []
    assert of("asyncio"), "it is somewhere, or this test reads nothing"


@pytest.mark.parametrize("library", ONCE)
def test_a_library_is_known_to_one_file(library: str) -> None:
    assert len(of(library)) == 1, f"{library} is imported in {', '.join(of(library)) or 'no file'}"


def test_cryptography_is_for_certificates_seals_and_signatures() -> None:
    """Three things that have nothing in common but the library."""
    parts = [library for library in ONCE if library.startswith("cryptography.")]
    assert len(parts) == 3
    assert of("cryptography") == sorted(place for part in parts for place in of(part))


def test_nothing_turns_bytes_into_code() -> None:
    assert {library: of(library) for library in NEVER if of(library)} == {}
    calls = [
        (file.place, ast.unparse(node.func))
        for file in files()
        for node in ast.walk(file.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("eval", "exec", "compile", "torch.load")
    ]
    assert calls == []


@pytest.mark.parametrize("file", [file for file in files() if file.name.startswith("evaluator")], ids=lambda f: f.place)
def test_the_evaluator_uses_public_names_only(file: File) -> None:
    """It is the example of a node that is not ours."""
    inner = [name for name in file.imports if name.startswith("fedws.")]
    assert not inner, f"{file.place} imports {', '.join(inner)}"
    used = {
        node.attr
        for node in ast.walk(file.tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "fedws"
    }
    assert used <= set(fedws.__all__)
    assert used or "fedws" not in file.imports


@pytest.mark.parametrize("file", files(), ids=lambda file: file.place)
def test_no_file_is_too_long_to_be_read_at_once(file: File) -> None:
    lines = len(file.path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST, f"{file.place} has {lines} lines"


def test_imports_are_read_right() -> None:
    """That the tests above can fail."""
    source = """
import asyncio as a, json
from fedws.protocol import encoder
from fedws import register
from fedws.coordinator import link
if TYPE_CHECKING:
    import pickle
else:
    import shelve
if typing.TYPE_CHECKING:
    import marshal
def later():
    try:
        from websockets.asyncio import client
    except ImportError:
        import uvloop
"""
    found = set(_imports(ast.parse(source)))
    assert found == {
        "asyncio", "json", "fedws.protocol.encoder", "fedws", "fedws.coordinator.link", "shelve", "websockets.asyncio",
        "uvloop",
    }  # fmt: skip
