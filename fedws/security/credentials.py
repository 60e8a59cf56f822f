"""The credentials of a node: the network key and TLS."""

from dataclasses import dataclass

from fedws.protocol.messages import DEFAULT_COORDINATOR_ID
from fedws.security import network_key
from fedws.security.network_key import NetworkKey
from fedws.security.tls import TlsConfig


@dataclass(frozen=True)
class Credentials:
    """The credentials that a node presents and requires of its peers; ``INSECURE`` requires nothing."""

    key: NetworkKey | None
    """Network key; None allows any peer to connect."""
    tls: TlsConfig | None = None
    coordinator: str = DEFAULT_COORDINATOR_ID
    """Id of the coordinator; under mutual TLS, the id in its certificate."""
    encrypt_payloads: bool = False
    """True if intermediaries that carry messages, such as a broker, must not be able to read them."""


INSECURE = Credentials(None)


def load_default_credentials() -> Credentials:
    """Return the user's own key without TLS. Raises UsageError if the key can be neither read nor created."""
    return Credentials(network_key.load_network_key())
