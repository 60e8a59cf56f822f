"""Python code in pages: its imports exist, and calls of fedws have parameters of these names."""

import ast
import importlib
import inspect
import re
from typing import Any

import pytest

import fedws
from tests.helpers.support import REPOSITORY

PAGES = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md"), *(REPOSITORY / "examples").glob("*/*.md")]
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in sorted(PAGES)
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S))
]


def resolve(node: ast.expr, names: dict[str, Any]) -> Any:
    """Return what a dotted name is; None for what a block computes. Raises AttributeError."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        parent = resolve(node.value, names)
        return None if parent is None else getattr(parent, node.attr)
    return None


def imported_names(tree: ast.Module) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {
                alias.asname or alias.name.partition(".")[0]: importlib.import_module(alias.name)
                for alias in node.names
                if not (REPOSITORY / "examples" / "mnist_split" / f"{alias.name}.py").exists()
            }
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
                names[alias.asname or alias.name] = getattr(module, alias.name)
    return names


@pytest.mark.parametrize("block", BLOCKS)
def test_names_and_parameters_of_a_block_exist(block: str) -> None:
    tree = ast.parse(block, feature_version=(3, 11))
    names = imported_names(tree) | ({"result": fedws.RunResult} if "fedws.run" in block else {})
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in ("fedws", "result")
        ):
            owner = names.get(node.value.id)
            fields = getattr(owner, "__dataclass_fields__", {})
            assert owner is None or hasattr(owner, node.attr) or node.attr in fields, node.attr
        if not isinstance(node, ast.Call) or (called := resolve(node.func, names)) is None:
            continue
        module = getattr(called, "__module__", "") or ""
        if not module.startswith("fedws"):
            continue
        parameters = inspect.signature(called).parameters
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            assert {word.arg for word in node.keywords if word.arg} <= parameters.keys(), ast.unparse(node)


def test_there_are_blocks() -> None:
    assert len(BLOCKS) >= 5


def test_a_former_keyword_is_found() -> None:
    with pytest.raises(AssertionError, match="above"):
        test_names_and_parameters_of_a_block_exist("import fedws\nfedws.open_store('s3://a', above=1)")
    with pytest.raises(ImportError):
        test_names_and_parameters_of_a_block_exist("from fedws.split_learning.encoded_model import X")
