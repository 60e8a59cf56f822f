"""The network key: 32 random bytes that every node of one network knows, and nobody else.

Nobody has to configure it on one machine: the first node of a user makes it, in the user's configuration directory, and
every other node of that user reads it there. Elsewhere it is given in a file or in ``FEDWS_KEY``.
"""

import contextlib
import os
import re
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedws.core import private_files, user_dirs
from fedws.core.errors import UsageError

VARIABLE = "FEDWS_KEY"
_INSTEAD = f"name one with --key-file or {VARIABLE}, or do without one: --insecure"
_LENGTH = 32
_TEXT = re.compile(rf"[0-9a-f]{{{2 * _LENGTH}}}")


@dataclass(frozen=True)
class Key:
    """A key, and where it came from. Its text is shown by :attr:`text` alone, never by accident."""

    secret: bytes = field(repr=False)
    origin: str
    made: bool = False
    """Whether it was made just now."""

    @property
    def text(self) -> str:
        """As a file or ``FEDWS_KEY`` holds it: 64 hexadecimal digits."""
        return self.secret.hex()


def network_key(file: str | Path | None = None, environment: Mapping[str, str] = os.environ) -> Key:
    """The key in ``file``, else in ``FEDWS_KEY``, else the user's own, which is made when there is none.

    Raises UsageError when what is named is no key, or the user's own can be neither read nor made.
    """
    if file is not None:
        return _read(Path(file), f"--key-file {file}")
    if VARIABLE in environment:
        return Key(_parse(environment[VARIABLE], VARIABLE), VARIABLE)
    place = own()
    try:
        return _read(place, str(place)) if place.exists() else make(place)
    except OSError as error:
        raise UsageError(
            f"there is no network key, and none can be made in {place.parent} ({error.strerror}); {_INSTEAD}"
        ) from None


def own() -> Path:
    """Where the user's own key is. Raises UsageError."""
    return user_dirs.own("config", f"there is no network key: {_INSTEAD}") / "network.key"


def make(place: Path, *, replace: bool = False) -> Key:
    """Make a key at ``place``, readable by its owner alone; of several that make it at once, all get the first one's.

    With ``replace`` one that is there is replaced. Raises OSError.
    """
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".network.key.", dir=place.parent)  # its mode is 0600
    part = Path(name)
    try:
        key = Key(secrets.token_bytes(_LENGTH), str(place), made=True)
        with os.fdopen(handle, "w") as file:
            file.write(f"{key.text}\n")
            file.flush()
            os.fsync(file.fileno())
        if replace:
            part.replace(place)
        else:
            place.hardlink_to(part)
    except FileExistsError:
        return _read(place, str(place))
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
    return key


def _read(place: Path, name: str) -> Key:
    try:
        with place.open(encoding="ascii") as file:
            private_files.warn(name, place)
            text = file.read(4 * _LENGTH)
    except UnicodeDecodeError:
        text = ""
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}") from None
    return Key(_parse(text, name), name)


def _parse(text: str, name: str) -> bytes:
    if not _TEXT.fullmatch(text.strip().lower()):
        raise UsageError(f"{name} holds no network key, which is 64 hexadecimal digits, as 'fedws key show' prints it")
    return bytes.fromhex(text.strip())
