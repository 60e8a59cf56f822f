"""Where a broker is, and who one is to it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from fedws.core import addresses
from fedws.core.addresses import PASSWORD_FILE_VARIABLE, PASSWORD_VARIABLE
from fedws.core.errors import UsageError

DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True)
class BrokerAddress:
    """Of a broker, with the login."""

    host: str
    port: int
    user: str | None = None
    password: str | None = field(default=None, repr=False)


def parse_broker_url(url: str, environment: Mapping[str, str] = os.environ) -> BrokerAddress:
    """What ``mqtt://[user@]host[:port]`` says; the password of the user is in the environment, or in a file.

    Raises UsageError.
    """
    scheme, _, rest = addresses.require_no_secrets(url).partition("://")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")  # which a name must be fit for to be looked up
    except ValueError:
        host, port = None, 0
    if not host or port == 0 or parts.path.strip("/"):
        raise UsageError(
            f"{scheme}://{rest.rpartition('@')[2]} is no address; one looks like {scheme}://user@broker:1883"
        )
    user = unquote(parts.username) if parts.username else None
    return BrokerAddress(
        host, port or DEFAULT_PORTS.get(scheme, 0), user, _load_password(environment) if user is not None else None
    )


def _load_password(environment: Mapping[str, str]) -> str | None:
    if PASSWORD_VARIABLE in environment:
        return environment[PASSWORD_VARIABLE]
    if PASSWORD_FILE_VARIABLE not in environment:
        return None
    try:
        return Path(environment[PASSWORD_FILE_VARIABLE]).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        file, reason = environment[PASSWORD_FILE_VARIABLE], getattr(error, "strerror", error)
        raise UsageError(f"{PASSWORD_FILE_VARIABLE} {file} cannot be read: {reason}") from None
