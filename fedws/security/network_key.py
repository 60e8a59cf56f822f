"""The network key: 32 random bytes that all nodes of one network share as a secret.

On one machine it needs no configuration. The first node of a user creates it in the user's configuration directory,
and every other node of that user reads it there. On other machines it is given in a file or in ``FEDWS_KEY``.
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
from fedws.core.text_files import read_text

KEY_VARIABLE = "FEDWS_KEY"
_MISSING_KEY_HINT = f"set --key-file or {KEY_VARIABLE}, or pass --insecure"
_KEY_BYTES = 32
_MAX_FILE_BYTES = 1024
_KEY_PATTERN = re.compile(rf"[0-9a-f]{{{2 * _KEY_BYTES}}}")


@dataclass(frozen=True)
class NetworkKey:
    """A network key and its origin. Only ``hex_text`` shows its text, so that it is not logged by accident."""

    secret: bytes = field(repr=False)
    origin: str
    is_new: bool = False
    """True if the key was just created."""

    @property
    def hex_text(self) -> str:
        """Return the key as 64 hexadecimal digits, the form in a file and in ``FEDWS_KEY``."""
        return self.secret.hex()


def load_network_key(file: str | Path | None = None, environment: Mapping[str, str] = os.environ) -> NetworkKey:
    """Return the key in ``file``, else in ``FEDWS_KEY``, else the user's own, which is created if it does not exist.

    Raises UsageError if the given text is not a valid key, or the user's own key can be neither read nor created.
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
            f"network key not found, and cannot create one in {place.parent}: {error.strerror}; {_MISSING_KEY_HINT}"
        ) from None


def find_default_path() -> Path:
    """Return the path of the user's own key. Raises UsageError."""
    return user_dirs.find_user_dir("config", f"for the network key, {_MISSING_KEY_HINT}") / "network.key"


def create_key(path: Path, *, replace: bool = False) -> NetworkKey:
    """Create a key at ``path``, readable by its owner only, and return it.

    If several processes create it at once, all get the first one's key. With ``replace`` an existing key is replaced.
    Raises OSError.
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
        text = read_text(path, name, _MAX_FILE_BYTES)
        private_files.warn_if_exposed(name, path)
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror}") from None
    return NetworkKey(_parse_key(text, name), name)


def _parse_key(text: str, name: str) -> bytes:
    if not _KEY_PATTERN.fullmatch(text.strip().lower()):
        raise UsageError(f"{name} is not a network key; expected 64 hexadecimal digits, as printed by 'fedws key show'")
    return bytes.fromhex(text.strip())
