"""What a node proves itself with, and asks of others: the network key and TLS."""

from dataclasses import dataclass

from fedws.protocol.messages import COORDINATOR
from fedws.security import network_key
from fedws.security.network_key import Key
from fedws.security.tls import Tls


@dataclass(frozen=True)
class Security:
    """Of one node; :data:`INSECURE` asks for nothing."""

    key: Key | None
    """None: anyone may take part."""
    tls: Tls | None = None
    name: str = COORDINATOR
    """The coordinator's id; under mutual TLS, the one in its certificate."""
    seal: bool = False
    """Whether those who carry messages, as a broker, must not be able to read them."""


INSECURE = Security(None)


def default() -> Security:
    """The user's own key, and no TLS. Raises UsageError when there is no key and none can be made."""
    return Security(network_key.network_key())
