"""The flags of the store for large bodies, which every node has for itself, and what they make."""

import argparse
import math
from typing import TYPE_CHECKING

from fedws.core.errors import UsageError

if TYPE_CHECKING:
    from fedws.object_store.base import BodyStore, StoreConfig
    from fedws.security.credentials import Credentials

STORE_FLAGS = ("body_store", "body_store_min_mb")
_DEFAULT_MIN_MB = 1.0


def add_store_flags(flags: argparse.ArgumentParser) -> None:
    """Add them."""
    add = flags.add_argument_group("large bodies").add_argument
    add("--body-store", metavar="URL", help="send them through a store: s3://bucket/prefix, or a shared file:///folder")
    add("--body-store-min-mb", metavar="N", type=float, help=f"bodies of more than N MB ({_DEFAULT_MIN_MB:g})")


def build_store_config(arguments: argparse.Namespace) -> "StoreConfig | None":
    """What the flags say; None: nothing goes through a store. Raises UsageError."""
    from fedws.object_store.base import StoreConfig, parse_store_url

    url, above = getattr(arguments, "body_store", None), getattr(arguments, "body_store_min_mb", None)
    if url is None and above is not None:
        raise UsageError("--body-store-min-mb needs --body-store, the store that they go through")
    if above is not None and not (above >= 0 and math.isfinite(above)):
        raise UsageError(f"--body-store-min-mb {above:g}: a number of MB, at least 0")
    if url is not None:
        parse_store_url(url)  # before a line can repeat it
    return StoreConfig(url, int((_DEFAULT_MIN_MB if above is None else above) * 1e6)) if url is not None else None


def open_configured_store(
    config: "StoreConfig | None", timeout: float, credentials: "Credentials"
) -> "BodyStore | None":
    """The store of that setting, open and tried; what its owner can read is said. Raises UsageError."""
    from fedws.object_store import base

    if config is not None and credentials.encrypt_payloads:
        print(f"--encrypt-payloads is for links: what goes through {config.url} can be read there")
    return None if config is None else base.open_store(config.url, config.min_bytes, timeout)
