"""One-line descriptions of errors, with the line of the user's own files that caused them."""

import os
import sysconfig
import traceback
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from fedws.core.errors import FedwsError
from fedws.core.untrusted_text import MAX_LINE_CHARS, get_error_text, to_line, to_printable

PLUGIN_MODULE_PREFIX = "fedws_plugin_"
"""Prefix of the module names that ``--plugin`` assigns."""
_INTERACTIVE_PREFIXES = ("<stdin>", "<ipython-input", "<python-input", "<cell")
"""Prefixes of the file names that Python and notebooks use for code typed at a prompt or in a cell."""
_PACKAGE_DIRS = {"site-packages", "dist-packages"}


def find_user_location(error: BaseException) -> str:
    """Return the last line of the user's own files in the traceback of the error, as ``FILE, line N``.

    The traceback of the error itself is searched first, then those of its causes. The text is empty if no line of the
    user's files is found. It is also empty for an error of fedws that the user's code raised itself, since its text
    is already meant for people. The location may depend on private data, so it may only be logged on this machine.
    """
    for each in _iter_causes(error):
        if isinstance(each, SyntaxError) and each.filename and is_user_file(each.filename):
            return f"{each.filename}, line {each.lineno}"
        frames = list(traceback.walk_tb(each.__traceback__))
        by_user = [is_user_file(frame.f_code.co_filename, frame.f_globals.get("__name__", "")) for frame, _ in frames]
        if isinstance(each, FedwsError) and by_user and by_user[-1] and each.__cause__ is None:
            return ""
        lines = [
            f"{frame.f_code.co_filename}, line {line}"
            for (frame, line), is_users in zip(frames, by_user, strict=True)
            if is_users
        ]
        if lines:
            return lines[-1]
    return ""


def find_last_location(error: BaseException) -> str:
    """Return the last line in the traceback of the error, in any file, as ``FILE, line N``; empty without one."""
    lines = [f"{frame.f_code.co_filename}, line {line}" for frame, line in traceback.walk_tb(error.__traceback__)]
    return lines[-1] if lines else ""


def describe_with_location(error: BaseException) -> str:
    """Return ``summarize_error``, followed by the location of the error in brackets.

    The location is that of ``find_user_location``, or else that of ``find_last_location``.
    """
    return f"{summarize_error(error)} ({find_user_location(error) or find_last_location(error)})"


def describe_error(error: BaseException) -> str:
    """Return a description of the error, with its location.

    For errors of fedws and of the operating system, the location is only added if it is in the user's own files.
    """
    if not isinstance(error, FedwsError | OSError):
        return describe_with_location(error)
    place = find_user_location(error)
    return to_line(get_error_text(error, MAX_LINE_CHARS) + (f" ({place})" if place else ""))


def summarize_error(error: BaseException, max_chars: int = 300) -> str:
    """Return the type and the text of the error as one line; for an error of fedws, only the text.

    >>> summarize_error(KeyError("label"))
    "KeyError: 'label'"
    """
    if isinstance(error, FedwsError):
        return to_printable(" ".join(str(error).split()), max_chars)
    kind = type(error).__name__
    text = get_error_text(SyntaxError(error.msg) if isinstance(error, SyntaxError) else error, max_chars)
    return kind if text == kind else f"{kind}: {text}"


@cache
def is_user_file(filename: str, module: str = "") -> bool:
    """Return whether a file is the user's own: not part of fedws, the standard library or an installed package."""
    if filename.startswith("<"):
        return filename.startswith(_INTERACTIVE_PREFIXES)
    if module.startswith(PLUGIN_MODULE_PREFIX):
        return True
    path = Path(os.path.realpath(filename))
    if path.suffix not in (".py", ""):  # the source of an extension module, such as uvloop
        return False
    return not (_PACKAGE_DIRS & set(path.parts) or any(path.is_relative_to(folder) for folder in _library_dirs()))


@cache
def _library_dirs() -> tuple[Path, ...]:
    here = Path(os.path.realpath(__file__)).parents[1]
    libraries = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    return here, here.parent / "evaluator", *(Path(os.path.realpath(folder)) for folder in libraries)


def _iter_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error, its cause or context, and so on, each error once."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
