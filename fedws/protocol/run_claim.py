"""Which run a link is of, and the right to continue what that run began on a node."""

import hmac
import json
from dataclasses import dataclass, field
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedws.core.errors import printable

SHOWN = 8
"""Characters of a run's public id in log lines and refusals."""


@dataclass(frozen=True)
class Claim:
    """The run of a link as a node identifies it.

    The ids are public: they appear in refusals, logs and names of folders. So is the key that a node has; the one that
    goes with it stays with the coordinator, which signs each handshake with it.
    """

    run: str = ""
    """Public id of the run."""
    coordinator: str = ""
    """Id of the coordinator."""
    key: str = field(default="", repr=False)
    """Key of this run for this node, 64 hexadecimal digits: at its coordinator the private one, see :func:`takeover`,
    and at the node the public one. Empty on a link without a network key."""

    @property
    def shown(self) -> str:
        """The first characters of the run's public id, for log lines."""
        return printable(self.run, SHOWN)

    def continues(self, other: "Claim") -> bool:
        """Return whether a link with this claim may continue what one with ``other`` began.

        A run without an id continues nothing, since it may be any run.

        >>> one = Claim("5f2a", "lab", "key")
        >>> one.continues(one), one.continues(Claim("5f2a", "lab", "other")), Claim().continues(Claim())
        (True, False, False)
        """
        same = (self.run, self.coordinator) == (other.run, other.coordinator)
        return same and bool(self.run) and self.key == other.key

    @property
    def digest(self) -> str:
        """SHA-256 of the claim, as hexadecimal digits: a name for files."""
        return sha256(json.dumps([self.coordinator, self.run, self.key]).encode()).hexdigest()


def takeover(secret: bytes, node: str) -> str:
    """Return a run's private key for one node (Ed25519, RFC 8032), as 64 hexadecimal digits. It is never sent.

    It is HMAC-SHA256 of the node's id under the run's own secret.

    >>> takeover(bytes(32), "alice")[:16], takeover(bytes(32), "bob")[:16]
    ('4ff71fcb7212d6d6', '0547f51334797e8c')
    """
    return hmac.digest(secret, b"fedws takeover " + node.encode(), "sha256").hex()


def public(private: str) -> str:
    """Return the public key that goes with a private one, both as 64 hexadecimal digits.

    >>> public(takeover(bytes(32), "alice"))[:16]
    'e795b5192347a028'
    """
    return _private(private).public_key().public_bytes_raw().hex()


def sign(private: str, data: bytes) -> str:
    """Return the signature of ``data``, as 128 hexadecimal digits."""
    return _private(private).sign(data).hex()


def signed(public: str, data: bytes, signature: str) -> bool:
    """Return whether ``signature`` was made of ``data`` with the private key that goes with ``public``."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(bytes.fromhex(signature), data)
    except (InvalidSignature, ValueError):  # of bytes that are no key
        return False
    return True


def _private(private: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(private))
