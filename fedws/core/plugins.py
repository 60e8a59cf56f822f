"""Loading of plugins: local Python files that register pieces, given with ``--plugin``, and modules in their folder."""

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
    """Load each local Python file with ``load_plugin``."""
    for path in paths:
        load_plugin(path)


def load_plugin(path: str | Path) -> None:
    """Run a local Python file that registers pieces.

    A file runs only once, even if it is given under several paths. Its folder is appended to ``sys.path`` and stays
    there, so functions of the plugin can import its modules later. As the last entry, the folder cannot hide a module
    of the standard library or an installed package.

    Raises UsageError if the file is not found or raises an error. Two plugins may have modules of the same name in
    their folders. If Python would import the wrong one, UsageError is raised too.
    """
    file = Path(path).expanduser().resolve()
    name = _unused_module_name(file)
    if not name:
        return
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise UsageError(f"--plugin {path}: Python file not found")
    before, folder = set(sys.modules), str(file.parent)
    added = folder not in sys.path
    if added:
        sys.path.append(folder)
    importlib.invalidate_caches()  # a module in the folder may be new
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        _check_imports(file)
        spec.loader.exec_module(module)
    except Exception as error:
        for other in set(sys.modules) - before:  # so the user can correct the file and load it again
            if other == name or (sys.modules[other].__dict__.get("__file__") or "").startswith(folder + os.sep):
                del sys.modules[other]
        if added:
            sys.path.remove(folder)
        raise UsageError(f"--plugin {path}: {summarize_error(error)}") from error


def _unused_module_name(file: Path) -> str:
    """Return a module name that no other file has; empty if the file is already loaded."""
    files = {
        name: str(module.__file__) for name, module in sys.modules.items() if name.startswith(PLUGIN_MODULE_PREFIX)
    }
    if str(file) in files.values():
        return ""
    name = f"{PLUGIN_MODULE_PREFIX}{file.stem}"
    return name if name not in files else f"{name}_{hashlib.sha256(os.fsencode(file)).hexdigest()[:16]}"


def _check_imports(file: Path) -> None:
    """Raise UsageError if an import of a module in the file's folder would find another user file of the same name."""
    for name, beside in _find_local_imports(file).items():
        loaded = sys.modules.get(name)
        spec = PathFinder.find_spec(name) if loaded is None else loaded.__spec__
        found = spec.origin if spec is not None and spec.has_location else None
        if found is not None and is_user_file(found) and Path(found).resolve() != beside:
            raise UsageError(f"import of {name!r} finds {found} instead of {beside}; rename one of the two files")


def _find_local_imports(file: Path) -> dict[str, Path]:
    """Return the paths by name of the modules in the file's folder that it imports, directly or indirectly."""
    found: dict[str, Path] = {}
    unread = [file]
    while unread:
        for name in set(_iter_imports(unread.pop())) - set(found):
            package = file.parent / name / "__init__.py"
            module = file.parent / f"{name}.py"
            if package.is_file():
                found[name] = package
                unread += package.parent.rglob("*.py")
            elif module.is_file():
                found[name] = module
                unread.append(module)
    return found


def _iter_imports(file: Path) -> Iterator[str]:
    """Yield the top-level module names that a file imports, also within functions; none if it is not valid Python."""
    with contextlib.suppress(OSError, ValueError, SyntaxError):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                yield node.module.partition(".")[0]
