"""Which transport an address is for."""

from collections.abc import Callable
from functools import partial

from fedws.core import addresses, registry
from fedws.core.errors import UsageError
from fedws.network.base import Transport


def find_transport(url: str) -> Transport:
    """The transport for a URL's scheme, under TLS where that ends in one more ``s``.

    Raises UsageError, listing the schemes, when there is none, and for an address with a secret in it.
    """
    scheme = addresses.require_no_secrets(url).partition("://")[0].lower()
    ways: dict[str, Callable[[], Transport]] = {}
    for name in registry.list_pieces("transport"):
        kind = registry.find_piece("transport", name)
        ways[name] = kind
        if not kind.in_process:
            ways[f"{name}s"] = partial(kind, encrypted=True)
    if scheme not in ways:
        raise UsageError(f"{url}: nobody serves {scheme}://; there are {', '.join(ways)}")
    return ways[scheme]()
