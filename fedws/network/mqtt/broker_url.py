"""Where a broker is, and who one is to it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from fedws.core import addresses
from fedws.core.addresses import PASSWORD, PASSWORD_FILE
from fedws.core.errors import UsageError

PORTS = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True)
class Address:
    """Of a broker, with the login."""

    host: str
    port: int
    user: str | None = None
    password: str | None = field(default=None, repr=False)


def address(url: str, environment: Mapping[str, str] = os.environ) -> Address:
    """What ``mqtt://[user@]host[:port]`` says; the password of the user is in the environment, or in a file.

    Raises UsageError.
    """
    scheme, _, rest = addresses.checked(url).partition("://")
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
    return Address(host, port or PORTS.get(scheme, 0), user, _password(environment) if user is not None else None)


def _password(environment: Mapping[str, str]) -> str | None:
    if PASSWORD in environment:
        return environment[PASSWORD]
    if PASSWORD_FILE not in environment:
        return None
    try:
        return Path(environment[PASSWORD_FILE]).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{PASSWORD_FILE} {environment[PASSWORD_FILE]} cannot be read: {getattr(error, 'strerror', error)}"
        ) from None
