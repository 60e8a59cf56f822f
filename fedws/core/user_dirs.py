"""The user's own folders: for settings, for what a program writes down, for what can be fetched again."""

from pathlib import Path
from typing import Literal

import platformdirs

from fedws.core.errors import UsageError


def find_user_dir(kind: Literal["config", "state", "cache"], hint: str) -> Path:
    """The folder of fedws of that kind. Raises UsageError where the user has none, with what to do ``hint``."""
    find = {
        "config": platformdirs.user_config_path,
        "state": platformdirs.user_state_path,
        "cache": platformdirs.user_cache_path,
    }[kind]
    try:
        path = find("fedws")
    except RuntimeError:
        path = Path()
    if not path.is_absolute():  # an unknown user's home is not known either, and must not be the working directory
        raise UsageError(f"the user has no home directory; {hint}")
    return path
