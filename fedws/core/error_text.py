"""Where in the user's own files an error came from, and what it says, as parts of one line."""

import os
import sysconfig
import traceback
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from fedws.core.errors import FedwsError
from fedws.core.untrusted_text import MAX_LINE_CHARS, get_error_text, to_line, to_printable

PLUGIN_MODULE_PREFIX = "fedws_plugin_"
"""The beginning of the name of each module that is loaded with ``--plugin``."""
_INTERACTIVE_PREFIXES = ("<stdin>", "<ipython-input", "<python-input", "<cell")
"""The names that Python and notebooks give to lines typed at a prompt or in a cell."""
_PACKAGE_DIRS = {"site-packages", "dist-packages"}


def find_user_location(error: BaseException) -> str:
    """Return ``FILE, line N``: the last line of the user's own files that the error passed through.

    The traceback of the error itself is searched first, then those of its causes. The text is empty where no line of
    the user's is found, and for an error of fedws that the user's own code raised on purpose: its text is for people.
    It may depend on the data, so it is for the logs of this machine only.
    """
    for one in _iter_causes(error):
        if isinstance(one, SyntaxError) and one.filename and is_user_file(one.filename):
            return f"{one.filename}, line {one.lineno}"
        frames = list(traceback.walk_tb(one.__traceback__))
        users = [is_user_file(frame.f_code.co_filename, frame.f_globals.get("__name__", "")) for frame, _ in frames]
        if isinstance(one, FedwsError) and users and users[-1] and one.__cause__ is None:
            return ""
        lines = [
            f"{frame.f_code.co_filename}, line {line}" for (frame, line), its in zip(frames, users, strict=True) if its
        ]
        if lines:
            return lines[-1]
    return ""


def find_last_location(error: BaseException) -> str:
    """Return ``FILE, line N`` of the very last line that the error passed through, in whosever file; or empty text."""
    lines = [f"{frame.f_code.co_filename}, line {line}" for frame, line in traceback.walk_tb(error.__traceback__)]
    return lines[-1] if lines else ""


def describe_with_location(error: BaseException) -> str:
    """Return :func:`summarize_error`, and in brackets the line it came from: the user's, or else the very last one."""
    return f"{summarize_error(error)} ({find_user_location(error) or find_last_location(error)})"


def describe_error(error: BaseException) -> str:
    """Return :func:`describe_with_location`; an error of fedws or of the system has a line only where it came from the
    user's."""
    if not isinstance(error, FedwsError | OSError):
        return describe_with_location(error)
    place = find_user_location(error)
    return to_line(get_error_text(error, MAX_LINE_CHARS) + (f" ({place})" if place else ""))


def summarize_error(error: BaseException, max_chars: int = 300) -> str:
    """Return the error's type and text on one line; of an error of fedws, the text alone.

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
    """Whether a file is the user's: not part of fedws, of the standard library or of an installed package."""
    if filename.startswith("<"):
        return filename.startswith(_INTERACTIVE_PREFIXES)
    if module.startswith(PLUGIN_MODULE_PREFIX):
        return True
    path = Path(os.path.realpath(filename))
    if path.suffix not in (".py", ""):  # the source of an extension module, as of uvloop
        return False
    return not (_PACKAGE_DIRS & set(path.parts) or any(path.is_relative_to(folder) for folder in _library_dirs()))


@cache
def _library_dirs() -> tuple[Path, ...]:
    here = Path(os.path.realpath(__file__)).parents[1]
    libraries = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    return here, here.parent / "evaluator", *(Path(os.path.realpath(folder)) for folder in libraries)


def _iter_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error, what it was raised from, and so on; each once."""
    seen: set[int] = set()
    now: BaseException | None = error
    while now is not None and id(now) not in seen:
        seen.add(id(now))
        yield now
        now = now.__cause__ or (None if now.__suppress_context__ else now.__context__)
