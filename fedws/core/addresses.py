"""What an address of a node may hold: a scheme, a host, a port, a path, and of a broker a user.

Addresses are written to plans, records and logs. An address with a secret is refused,
and the text of the error is without it.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
)

from fedws.core.errors import UsageError

PASSWORD_VARIABLE, PASSWORD_FILE_VARIABLE = "FEDWS_MQTT_PASSWORD", "FEDWS_MQTT_PASSWORD_FILE"  # names of variables
_BROKER_SCHEMES = ("mqtt", "mqtts")
"""Schemes whose addresses may name a user."""


def check_no_secrets(text: str) -> str:
    """Return the text of an address, whose form is checked elsewhere.

    Raises ValueError, which repeats nothing of it, when it holds a user, a password, a query or a fragment. What is
    before the last ``@`` counts as a user also where the rules of URLs read it as a path.

    >>> check_no_secrets("mqtt://alice@broker:1883")
    'mqtt://alice@broker:1883'
    >>> check_no_secrets("ws://alice:secret@host:8777")
    Traceback (most recent call last):
    ValueError: an address with an @ in it: a user or password would stand in logs and plans; leave it out
    """
    scheme, separator, rest = text.partition("://")
    before, at, host = (rest if separator else text).rpartition("@")
    if scheme.lower() not in _BROKER_SCHEMES:
        if at:
            raise ValueError(
                "an address with an @ in it: a user or password would stand in logs and plans; leave it out"
            )
    elif set(before) & set(":/?#@"):
        variables = f"{PASSWORD_VARIABLE} or {PASSWORD_FILE_VARIABLE}"
        raise ValueError(f"a password in an address would stand in logs and plans; put it in {variables}")
    if "?" in host or "#" in host:
        raise ValueError("an address with a ? or # in it: what follows would stand in logs and plans; leave it out")
    return text


def require_no_secrets(text: str) -> str:
    """Return the text of an address as :func:`check_no_secrets` does. Raises UsageError where that raises
    ValueError."""
    try:
        return check_no_secrets(text)
    except ValueError as error:
        raise UsageError(str(error)) from None


def iter_strings(value: Any) -> Iterator[str]:
    """Yield the texts in a setting of any form, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for item in value.items() for part in item for text in iter_strings(part))
    elif isinstance(value, list | tuple):
        yield from (text for part in value for text in iter_strings(part))


def check_url(text: str) -> str:
    """Return the text of a URL with a scheme and a host. Raises ValueError for any other text."""
    scheme, separator, rest = text.partition("://")
    with contextlib.suppress(ValueError):
        urlsplit(text)  # raises for an IPv6 address that does not end
        if separator and scheme and rest:
            return text
    raise ValueError(f"{text!r} is no address; one looks like ws://host:8777")


Url = Annotated[str, AfterValidator(check_url)]


def format_peer_address(address: str) -> str:
    """Return where a caller is, for a line about it; empty where its transport has no addresses.

    >>> format_peer_address("192.0.2.7"), format_peer_address("")
    (' at 192.0.2.7', '')
    """
    return f" at {address}" if address else ""
