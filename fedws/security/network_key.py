"""The network key: 32 random bytes that every node of one network knows, and nobody else.

Nobody has to configure it on one machine: the first node of a user makes it, in the user's configuration directory, and
every other node of that user reads it there. Elsewhere it is given in a file or in ``FEDWS_KEY``.
"""

import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedws.core import private_files, user_dirs
from fedws.core.atomic_files import atomic_file
from fedws.core.errors import UsageError

KEY_VARIABLE = "FEDWS_KEY"
_MISSING_KEY_HINT = f"name one with --key-file or {KEY_VARIABLE}, or do without one: --insecure"
_KEY_BYTES = 32
_KEY_PATTERN = re.compile(rf"[0-9a-f]{{{2 * _KEY_BYTES}}}")


@dataclass(frozen=True)
class NetworkKey:
    """A key, and where it came from. Its text is shown by :attr:`hex_text` alone, never by accident."""

    secret: bytes = field(repr=False)
    origin: str
    is_new: bool = False
    """Whether it was made just now."""

    @property
    def hex_text(self) -> str:
        """As a file or ``FEDWS_KEY`` holds it: 64 hexadecimal digits."""
        return self.secret.hex()


def load_network_key(file: str | Path | None = None, environment: Mapping[str, str] = os.environ) -> NetworkKey:
    """The key in ``file``, else in ``FEDWS_KEY``, else the user's own, which is made when there is none.

    Raises UsageError when what is named is no key, or the user's own can be neither read nor made.
    """
    if file is not None:
        return _read_key_file(Path(file), f"--key-file {file}")
    if KEY_VARIABLE in environment:
        return NetworkKey(_parse_key(environment[KEY_VARIABLE], KEY_VARIABLE), KEY_VARIABLE)
    place = find_default_path()
    try:
        return _read_key_file(place, str(place)) if place.exists() else create_key(place)
    except OSError as error:
        raise UsageError(
            f"there is no network key, and none can be made in {place.parent} ({error.strerror}); {_MISSING_KEY_HINT}"
        ) from None


def find_default_path() -> Path:
    """Where the user's own key is. Raises UsageError."""
    return user_dirs.find_user_dir("config", f"there is no network key: {_MISSING_KEY_HINT}") / "network.key"


def create_key(path: Path, *, replace: bool = False) -> NetworkKey:
    """Make a key at ``path``, readable by its owner alone; of several that make it at once, all get the first one's.

    With ``replace`` one that is there is replaced. Raises OSError.
    """
    private_files.create_dir(path.parent, parents=True, exist_ok=True)
    key = NetworkKey(secrets.token_bytes(_KEY_BYTES), str(path), is_new=True)
    try:
        with atomic_file(path, shared=True, exclusive=not replace) as part:
            part.write_text(f"{key.hex_text}\n")
    except FileExistsError:
        return _read_key_file(path, str(path))
    return key


def _read_key_file(path: Path, name: str) -> NetworkKey:
    try:
        with path.open(encoding="ascii") as file:
            private_files.warn_if_exposed(name, path)
            text = file.read(4 * _KEY_BYTES)
    except UnicodeDecodeError:
        text = ""
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}") from None
    return NetworkKey(_parse_key(text, name), name)


def _parse_key(text: str, name: str) -> bytes:
    if not _KEY_PATTERN.fullmatch(text.strip().lower()):
        raise UsageError(f"{name} holds no network key, which is 64 hexadecimal digits, as 'fedws key show' prints it")
    return bytes.fromhex(text.strip())
