"""What a node proves itself with, and asks of others: the network key and TLS."""

from dataclasses import dataclass

from fedws.protocol.messages import DEFAULT_COORDINATOR_ID
from fedws.security import network_key
from fedws.security.network_key import NetworkKey
from fedws.security.tls import TlsConfig


@dataclass(frozen=True)
class Credentials:
    """Of one node; :data:`INSECURE` asks for nothing."""

    key: NetworkKey | None
    """None: anyone may take part."""
    tls: TlsConfig | None = None
    coordinator: str = DEFAULT_COORDINATOR_ID
    """The coordinator's id; under mutual TLS, the one in its certificate."""
    encrypt_payloads: bool = False
    """Whether those who carry messages, as a broker, must not be able to read them."""


INSECURE = Credentials(None)


def load_default_credentials() -> Credentials:
    """The user's own key, and no TLS. Raises UsageError when there is no key and none can be made."""
    return Credentials(network_key.load_network_key())
