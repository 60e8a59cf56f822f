"""Where in the user's own files an error came from, and what it says, as parts of one line."""

import os
import sysconfig
import traceback
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from fedws.core.errors import FedwsError
from fedws.core.untrusted_text import LINE, line, printable, words

PLUGIN = "fedws_plugin_"
"""The beginning of the name of each module that is loaded with ``--plugin``."""
_TYPED = ("<stdin>", "<ipython-input", "<python-input", "<cell")
"""The names that Python and notebooks give to lines typed at a prompt or in a cell."""
_INSTALLED = {"site-packages", "dist-packages"}


def where(error: BaseException) -> str:
    """Return ``FILE, line N``: the last line of the user's own files that the error passed through.

    The traceback of the error itself is searched first, then those of its causes. The text is empty where no line of
    the user's is found, and for an error of fedws that the user's own code raised on purpose: its text is for people.
    It may depend on the data, so it is for the logs of this machine only.
    """
    for one in _chain(error):
        if isinstance(one, SyntaxError) and one.filename and own(one.filename):
            return f"{one.filename}, line {one.lineno}"
        frames = list(traceback.walk_tb(one.__traceback__))
        users = [own(frame.f_code.co_filename, frame.f_globals.get("__name__", "")) for frame, _ in frames]
        if isinstance(one, FedwsError) and users and users[-1] and one.__cause__ is None:
            return ""
        lines = [
            f"{frame.f_code.co_filename}, line {line}" for (frame, line), its in zip(frames, users, strict=True) if its
        ]
        if lines:
            return lines[-1]
    return ""


def last(error: BaseException) -> str:
    """Return ``FILE, line N`` of the very last line that the error passed through, in whosever file; or empty text."""
    lines = [f"{frame.f_code.co_filename}, line {line}" for frame, line in traceback.walk_tb(error.__traceback__)]
    return lines[-1] if lines else ""


def placed(error: BaseException) -> str:
    """Return :func:`summary`, and in brackets the line it came from: the user's, or else the very last one."""
    return f"{summary(error)} ({where(error) or last(error)})"


def told(error: BaseException) -> str:
    """Return :func:`placed`; an error of fedws or of the system has a line only where it came from the user's."""
    if not isinstance(error, FedwsError | OSError):
        return placed(error)
    place = where(error)
    return line(words(error, LINE) + (f" ({place})" if place else ""))


def summary(error: BaseException, longest: int = 300) -> str:
    """Return the error's type and text on one line; of an error of fedws, the text alone.

    >>> summary(KeyError("label"))
    "KeyError: 'label'"
    """
    if isinstance(error, FedwsError):
        return printable(" ".join(str(error).split()), longest)
    kind = type(error).__name__
    text = words(SyntaxError(error.msg) if isinstance(error, SyntaxError) else error, longest)
    return kind if text == kind else f"{kind}: {text}"


@cache
def own(file: str, module: str = "") -> bool:
    """Whether a file is the user's: not part of fedws, of the standard library or of an installed package."""
    if file.startswith("<"):
        return file.startswith(_TYPED)
    if module.startswith(PLUGIN):
        return True
    path = Path(os.path.realpath(file))
    if path.suffix not in (".py", ""):  # the source of an extension module, as of uvloop
        return False
    return not (_INSTALLED & set(path.parts) or any(path.is_relative_to(folder) for folder in _theirs()))


@cache
def _theirs() -> tuple[Path, ...]:
    here = Path(os.path.realpath(__file__)).parents[1]
    libraries = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    return here, here.parent / "evaluator", *(Path(os.path.realpath(folder)) for folder in libraries)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error, what it was raised from, and so on; each once."""
    seen: set[int] = set()
    now: BaseException | None = error
    while now is not None and id(now) not in seen:
        seen.add(id(now))
        yield now
        now = now.__cause__ or (None if now.__suppress_context__ else now.__context__)
