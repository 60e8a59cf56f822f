"""Checks of node addresses, which consist of a scheme, host, port and path, and for a broker also of a user name.

Addresses are written to plans, records and logs. An address that contains a secret is therefore rejected, and the
text of the error does not contain the secret.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
)

from fedws.core.errors import UsageError

PASSWORD_VARIABLE, PASSWORD_FILE_VARIABLE = "FEDWS_MQTT_PASSWORD", "FEDWS_MQTT_PASSWORD_FILE"  # environment variables
_BROKER_SCHEMES = ("mqtt", "mqtts")
"""Schemes whose addresses may contain a user name."""


def check_no_secrets(text: str) -> str:
    """Return the address if it cannot contain a secret; its form is checked elsewhere.

    Raises ValueError if the address contains a password, a query or a fragment, or a user name without a broker scheme.
    The text of the error contains no part of the address. Everything before the last ``@`` counts as the user, even if
    it is part of the path by the rules of URLs.

    >>> check_no_secrets("mqtt://alice@broker:1883")
    'mqtt://alice@broker:1883'
    >>> check_no_secrets("ws://alice:secret@host:8777")
    Traceback (most recent call last):
    ValueError: an address must not contain '@': logs and plans would show a user name or password; remove it
    """
    scheme, separator, rest = text.partition("://")
    before, at, host = (rest if separator else text).rpartition("@")
    if scheme.lower() not in _BROKER_SCHEMES:
        if at:
            raise ValueError(
                "an address must not contain '@': logs and plans would show a user name or password; remove it"
            )
    elif set(before) & set(":/?#@"):
        variables = f"{PASSWORD_VARIABLE} or {PASSWORD_FILE_VARIABLE}"
        raise ValueError(f"an address must not contain a password: logs and plans would show it; set {variables}")
    if "?" in host or "#" in host:
        raise ValueError("an address must not contain '?' or '#': logs and plans would show the rest; remove it")
    return text


def require_no_secrets(text: str) -> str:
    """Return the address like ``check_no_secrets``, but raise UsageError instead of ValueError."""
    try:
        return check_no_secrets(text)
    except ValueError as error:
        raise UsageError(str(error)) from None


def iter_strings(value: Any) -> Iterator[str]:
    """Yield all strings in a nested setting, including the keys of mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for item in value.items() for part in item for text in iter_strings(part))
    elif isinstance(value, list | tuple):
        yield from (text for part in value for text in iter_strings(part))


def check_url(text: str) -> str:
    """Return the text if it is a URL with a scheme and a host. Raises ValueError if it is not."""
    scheme, separator, rest = text.partition("://")
    with contextlib.suppress(ValueError):
        urlsplit(text)  # raises ValueError for an IPv6 address without its closing bracket
        if separator and scheme and rest:
            return text
    raise ValueError(f"{text!r} is not a valid address; use the form ws://host:8777")


Url = Annotated[str, AfterValidator(check_url)]


def format_peer_address(address: str) -> str:
    """Return the address of a peer as a part of a log line; empty if its transport has no addresses.

    >>> format_peer_address("192.0.2.7"), format_peer_address("")
    (' at 192.0.2.7', '')
    """
    return f" at {address}" if address else ""
