"""The claim by which a node identifies the run of a link, and grants it the right to continue earlier work."""

import hmac
import json
from dataclasses import dataclass, field
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedws.core.untrusted_text import to_printable

RUN_ID_PREFIX_CHARS = 8
"""Number of characters of a run's public id in log lines and refusals."""


@dataclass(frozen=True)
class RunClaim:
    """The identity of a link's run at a node.

    The ids are public: they appear in refusals, log lines and folder names. The key at the node is public too. The
    matching private key stays with the coordinator, which signs each handshake with it.
    """

    run: str = ""
    """Public id of the run."""
    coordinator: str = ""
    """Id of the coordinator."""
    key: str = field(default="", repr=False)
    """Key of this run for this node, as 64 hexadecimal digits; empty on a link without a network key.

    The coordinator holds the private key (see ``derive_takeover_key``), and the node the public key.
    """

    @property
    def run_id_prefix(self) -> str:
        """Return the first characters of the run's public id, for log lines."""
        return to_printable(self.run, RUN_ID_PREFIX_CHARS)

    def may_continue(self, other: "RunClaim") -> bool:
        """Return whether a link with this claim may continue the work of a link with ``other``.

        A run without an id cannot continue any work, since it may be any run.

        >>> claim, other, anonymous = RunClaim("5f2a", "lab", "key"), RunClaim("5f2a", "lab", "other"), RunClaim()
        >>> claim.may_continue(claim), claim.may_continue(other), anonymous.may_continue(anonymous)
        (True, False, False)
        """
        same = (self.run, self.coordinator) == (other.run, other.coordinator)
        return same and bool(self.run) and self.key == other.key

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the claim as hexadecimal digits, for use in file names."""
        return sha256(json.dumps([self.coordinator, self.run, self.key]).encode()).hexdigest()


def derive_takeover_key(run_secret: bytes, node: str) -> str:
    """Return a run's private key for one node (Ed25519, RFC 8032), as 64 hexadecimal digits. It is never sent.

    The key is the HMAC-SHA256 of the node's id under the run's secret.

    >>> derive_takeover_key(bytes(32), "alice")[:16], derive_takeover_key(bytes(32), "bob")[:16]
    ('4ff71fcb7212d6d6', '0547f51334797e8c')
    """
    return hmac.digest(run_secret, b"fedws takeover " + node.encode(), "sha256").hex()


def derive_public_key(private_key: str) -> str:
    """Return the public key of a private key, both as 64 hexadecimal digits.

    >>> derive_public_key(derive_takeover_key(bytes(32), "alice"))[:16]
    'e795b5192347a028'
    """
    return _load_private_key(private_key).public_key().public_bytes_raw().hex()


def sign(private_key: str, data: bytes) -> str:
    """Return the signature of ``data``, as 128 hexadecimal digits."""
    return _load_private_key(private_key).sign(data).hex()


def is_valid_signature(public_key: str, data: bytes, signature: str) -> bool:
    """Return whether ``signature`` was made of ``data`` with the private key of ``public_key``."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key)).verify(bytes.fromhex(signature), data)
    except (InvalidSignature, ValueError):  # ValueError: the bytes are not a valid key
        return False
    return True


def _load_private_key(private_key: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(private_key))
