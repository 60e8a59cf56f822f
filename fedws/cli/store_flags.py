"""Flags for the store of large bodies, which each node configures itself, and the store that they select."""

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
    """Add the flags for the body store."""
    add = flags.add_argument_group("large bodies").add_argument
    add(
        "--body-store",
        metavar="URL",
        help="store that carries large bodies: s3://bucket/prefix, or a shared file:///folder",
    )
    add(
        "--body-store-min-mb",
        metavar="N",
        type=float,
        help=f"size in MB above which bodies go through the store ({_DEFAULT_MIN_MB:g})",
    )


def build_store_config(arguments: argparse.Namespace) -> "StoreConfig | None":
    """Return the store's configuration, or None if no store is configured.

    Raise UsageError for a URL or size that is not valid, and for a size without a store.
    """
    from fedws.object_store.base import StoreConfig, parse_store_url

    url, above = getattr(arguments, "body_store", None), getattr(arguments, "body_store_min_mb", None)
    if url is None and above is not None:
        raise UsageError("--body-store-min-mb requires --body-store")
    if above is not None and not (above >= 0 and math.isfinite(above)):
        raise UsageError(f"--body-store-min-mb: expected a size in MB of at least 0, got {above:g}")
    if url is not None:
        parse_store_url(url)  # check it before a message can contain it
    return StoreConfig(url, int((_DEFAULT_MIN_MB if above is None else above) * 1e6)) if url is not None else None


def open_configured_store(
    config: "StoreConfig | None", timeout: float, credentials: "Credentials"
) -> "BodyStore | None":
    """Open and test the configured store, and return it, or None without a configuration.

    With payload encryption, print that the store's owner can read the bodies. Raise UsageError if the store is not
    usable. ``timeout`` is in seconds.
    """
    from fedws.object_store import base

    if config is not None and credentials.encrypt_payloads:
        print(f"--encrypt-payloads only encrypts links: the owner of {config.url} can read the bodies stored there")
    return None if config is None else base.open_store(config.url, config.min_bytes, timeout)
