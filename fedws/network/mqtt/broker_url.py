"""The address of a broker and the login for it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from fedws.core import addresses
from fedws.core.addresses import PASSWORD_FILE_VARIABLE, PASSWORD_VARIABLE
from fedws.core.errors import UsageError
from fedws.core.text_files import read_text

DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True)
class BrokerAddress:
    """The address of a broker, with the login."""

    host: str
    port: int
    user: str | None = None
    password: str | None = field(default=None, repr=False)


def parse_broker_url(url: str, environment: Mapping[str, str] = os.environ) -> BrokerAddress:
    """Return the address in ``mqtt://[user@]host[:port]``, with the user's password from the environment or a file.

    Raise UsageError if the URL is not valid or the password file cannot be read.
    """
    scheme, _, rest = addresses.require_no_secrets(url).partition("://")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")  # raises ValueError for a name that cannot be looked up
    except ValueError:
        host, port = None, 0
    if not host or port == 0 or parts.path.strip("/"):
        raise UsageError(
            f"'{scheme}://{rest.rpartition('@')[2]}' is not a valid address; use the form {scheme}://user@broker:1883"
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
        file = environment[PASSWORD_FILE_VARIABLE]
        return read_text(Path(file), f"{PASSWORD_FILE_VARIABLE}: {file}").rstrip("\r\n")
    except OSError as error:
        raise UsageError(f"{PASSWORD_FILE_VARIABLE}: cannot read {file}: {error.strerror}") from None
