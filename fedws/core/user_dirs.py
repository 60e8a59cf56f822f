"""The user's folders for configuration, for state, and for cached files that can be downloaded again."""

from pathlib import Path
from typing import Literal

import platformdirs

from fedws.core.errors import UsageError


def find_user_dir(kind: Literal["config", "state", "cache"], hint: str) -> Path:
    """Return the user's folder of that kind for fedws.

    Raises UsageError if the user has no home directory; ``hint`` is the part of its text that suggests a remedy.
    """
    find = {
        "config": platformdirs.user_config_path,
        "state": platformdirs.user_state_path,
        "cache": platformdirs.user_cache_path,
    }[kind]
    try:
        path = find("fedws")
    except RuntimeError:
        path = Path()
    if not path.is_absolute():  # without a home directory the path would be relative to the working directory
        raise UsageError(f"home directory not found; {hint}")
    return path
