"""What ``import fedws`` gives, and that it is told what it is."""

import ast
import inspect
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import fedws
from tests.helpers.support import REPOSITORY

FRONT_DOOR = REPOSITORY / "fedws" / "__init__.py"


def typed() -> dict[str, str]:
    """What the block for type checkers imports: each name and the module it is from."""
    (block,) = (
        node
        for node in ast.parse(FRONT_DOOR.read_text(encoding="utf-8")).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    found = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names:
            assert alias.asname == alias.name, f"{alias.name} as {alias.name}, or type checkers take it for private"
            found[alias.name] = node.module
    return found


def test_what_type_checkers_see_is_what_there_is() -> None:
    assert sorted(typed()) == fedws.__all__
    assert {name: f"fedws.{home}" for name, home in fedws._EXPORTS.items()} == typed()


@pytest.mark.parametrize("name", fedws.__all__)
def test_every_name_is_the_one_of_its_home(name: str) -> None:
    vars(fedws).pop(name, None)  # as before its first use
    module = sys.modules.get(typed()[name])
    found = getattr(fedws, name)
    module = sys.modules[typed()[name]]
    assert found is getattr(module, name)
    assert getattr(found, "__module__", module.__name__) in (module.__name__, "collections.abc", "typing")
    assert vars(fedws)[name] is found, "the second use does not look it up again"


def test_names_are_told_and_others_are_not_there() -> None:
    assert set(fedws.__all__) <= set(dir(fedws))
    with pytest.raises(AttributeError, match="module 'fedws' has no attribute 'wire_tap'"):
        fedws.wire_tap  # noqa: B018
    namespace: dict[str, object] = {}
    exec("from fedws import *", namespace)
    assert set(fedws.__all__) <= set(namespace)


@pytest.mark.parametrize("name", [name for name in fedws.__all__ if name not in ("Tensors",)])
def test_every_public_name_says_what_it_is(name: str) -> None:
    found = getattr(fedws, name)
    assert inspect.getdoc(found)
    if inspect.isclass(found):
        for key, member in vars(found).items():
            if not key.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                assert inspect.getdoc(member), f"{name}.{key}"


def test_importing_fedws_does_not_wait_for_torch() -> None:
    code = (
        "import sys, fedws; dir(fedws); print(*sorted({'torch', 'numpy', 'pydantic', 'websockets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_version_is_that_of_the_package() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    assert fedws.__version__ == project["project"]["version"]


def test_types_are_shipped() -> None:
    assert (FRONT_DOOR.parent / "py.typed").is_file()


def public(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Public classes, functions and methods; what is within a function is its own business."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and child.name[0] != "_":
            yield prefix + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from public(child, f"{child.name}.")


SOURCES = [path for folder in ("fedws", "evaluator") for path in sorted((REPOSITORY / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_everything_public_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "the file says what it is for"
    silent = [name for name, node in public(tree) if not ast.get_docstring(node)]  # type: ignore[arg-type]
    assert silent == []


def test_no_public_name_is_also_a_file() -> None:
    """Once a file is imported its name in the package is the module, whatever was there."""
    folder = Path(fedws.__file__).parent
    names = {path.stem for path in folder.iterdir()}
    assert [name for name in fedws.__all__ if name in names] == []
