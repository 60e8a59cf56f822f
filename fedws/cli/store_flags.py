"""The flags of the store for large bodies, which every node has for itself, and what they make."""

import argparse
import math
from typing import TYPE_CHECKING

from fedws.core.errors import UsageError

if TYPE_CHECKING:
    from fedws.object_store.base import Setting, Shelf
    from fedws.security.credentials import Security

FLAGS = ("blobs", "blobs_above")
_MB = 1.0


def add_blobs(flags: argparse.ArgumentParser) -> None:
    """Add them."""
    add = flags.add_argument_group("large bodies").add_argument
    add("--blobs", metavar="URL", help="send them through a store: s3://bucket/prefix, or a shared file:///folder")
    add("--blobs-above", metavar="MB", type=float, help=f"those of more than so many MB ({_MB:g})")


def blobs(arguments: argparse.Namespace) -> "Setting | None":
    """What the flags say; None: nothing goes through a store. Raises UsageError."""
    from fedws.object_store.base import Setting, parsed

    url, above = getattr(arguments, "blobs", None), getattr(arguments, "blobs_above", None)
    if url is None and above is not None:
        raise UsageError("--blobs-above needs --blobs, the store that they go through")
    if above is not None and not (above >= 0 and math.isfinite(above)):
        raise UsageError(f"--blobs-above {above:g}: a number of MB, at least 0")
    if url is not None:
        parsed(url)  # before a line can repeat it
    return Setting(url, int((_MB if above is None else above) * 1e6)) if url is not None else None


def shelf(setting: "Setting | None", patience: float, security: "Security") -> "Shelf | None":
    """The store of that setting, open and tried; what its owner can read is said. Raises UsageError."""
    from fedws.object_store import base

    if setting is not None and security.seal:
        print(f"--seal is for links: what goes through {setting.url} can be read there")
    return None if setting is None else base.shelf(setting.url, setting.above, patience)
