"""Local Python files that register pieces, as ``--plugin`` names them, and the modules beside them."""

import ast
import contextlib
import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path

from fedws.core.error_text import PLUGIN_MODULE_PREFIX, is_user_file, summarize_error
from fedws.core.errors import UsageError


def load_plugins(paths: Iterable[str | Path]) -> None:
    """Run each local Python file, as :func:`load_plugin` does."""
    for path in paths:
        load_plugin(path)


def load_plugin(path: str | Path) -> None:
    """Run a local Python file that registers pieces. Raises UsageError when it cannot be.

    A file runs once, under any path that names it. Its folder is importable from then on, as a script's folder is,
    also within functions that run later. The folder stands last in ``sys.path``, so that a file in it never hides a
    module of the standard library or an installed package. A module beside the file that another plugin's hides is an
    error, since the plugin would silently get the other one.
    """
    file = Path(path).expanduser().resolve()
    name = _unused_module_name(file)
    if not name:
        return
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise UsageError(f"--plugin {path}: there is no such Python file")
    before, folder = set(sys.modules), str(file.parent)
    added = folder not in sys.path
    if added:
        sys.path.append(folder)
    importlib.invalidate_caches()  # a module beside it may be new
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        _check_imports(file)
        spec.loader.exec_module(module)
    except Exception as error:
        for other in set(sys.modules) - before:  # so that it can be corrected and loaded again
            if other == name or (sys.modules[other].__dict__.get("__file__") or "").startswith(folder + os.sep):
                del sys.modules[other]
        if added:
            sys.path.remove(folder)
        raise UsageError(f"--plugin {path}: {summarize_error(error)}") from error


def _unused_module_name(file: Path) -> str:
    """Return a name for the file's module that no other file has; an empty text where the file is loaded."""
    files = {
        name: str(module.__file__) for name, module in sys.modules.items() if name.startswith(PLUGIN_MODULE_PREFIX)
    }
    if str(file) in files.values():
        return ""
    name = f"{PLUGIN_MODULE_PREFIX}{file.stem}"
    return name if name not in files else f"{name}_{hashlib.sha256(os.fsencode(file)).hexdigest()[:16]}"


def _check_imports(file: Path) -> None:
    """Raise UsageError where the file imports a module beside it, and another user's file of that name comes first."""
    for name, beside in _find_local_imports(file).items():
        loaded = sys.modules.get(name)
        spec = PathFinder.find_spec(name) if loaded is None else loaded.__spec__
        found = spec.origin if spec is not None and spec.has_location else None
        if found is not None and is_user_file(found) and Path(found).resolve() != beside:
            raise UsageError(f"it imports {name}, which is {found} and not {beside}; rename one of the two")


def _find_local_imports(file: Path) -> dict[str, Path]:
    """Return the modules in the file's folder that it imports, directly or through others of them, by name."""
    found: dict[str, Path] = {}
    waiting = [file]
    while waiting:
        for name in set(_iter_imports(waiting.pop())) - set(found):
            package = file.parent / name / "__init__.py"
            module = file.parent / f"{name}.py"
            if package.is_file():
                found[name] = package
                waiting += package.parent.rglob("*.py")
            elif module.is_file():
                found[name] = module
                waiting.append(module)
    return found


def _iter_imports(file: Path) -> Iterator[str]:
    """Yield the top-level names that a file imports, also within functions; none of a file that is not Python."""
    with contextlib.suppress(OSError, ValueError, SyntaxError):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                yield node.module.partition(".")[0]
