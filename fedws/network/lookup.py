"""The lookup of the transport for an address."""

from collections.abc import Callable
from functools import partial

from fedws.core import addresses, registry
from fedws.core.errors import UsageError
from fedws.network.base import Transport


def find_transport(url: str) -> Transport:
    """Return the transport for a URL's scheme. An additional ``s`` at the end of a scheme selects TLS.

    Raise UsageError if the scheme is unknown, with a list of the schemes, or if the address contains a secret.
    """
    scheme = addresses.require_no_secrets(url).partition("://")[0].lower()
    factories: dict[str, Callable[[], Transport]] = {}
    for name in registry.list_pieces("transport"):
        kind = registry.find_piece("transport", name)
        factories[name] = kind
        if not kind.in_process:
            factories[f"{name}s"] = partial(kind, encrypted=True)
    if scheme not in factories:
        raise UsageError(f"{url}: unknown scheme {scheme!r}; choose from {', '.join(factories)}")
    return factories[scheme]()
