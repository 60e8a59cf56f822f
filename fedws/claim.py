"""Which run a link is of, and the right to continue what that run began on a node."""

import hmac
import json
from dataclasses import dataclass, field
from hashlib import sha256

from fedws.errors import printable

SHOWN = 8
"""Characters of a run's public id in log lines and refusals."""


@dataclass(frozen=True)
class Claim:
    """The run of a link as a node identifies it.

    The ids are public: they appear in refusals, logs and names of folders. The secret appears in none of them, and a
    coordinator sends it only after the node has proved that it has the network key.
    """

    run: str = ""
    """Public id of the run."""
    coordinator: str = ""
    """Id of the coordinator."""
    secret: str = field(default="", repr=False)
    """Secret of this run for this node, see :func:`takeover`; empty on a link without a network key."""

    @property
    def shown(self) -> str:
        """The first characters of the run's public id, for log lines."""
        return printable(self.run, SHOWN)

    def continues(self, other: "Claim") -> bool:
        """Return whether a link with this claim may continue what one with ``other`` began.

        A run without an id continues nothing, since it may be any run.

        >>> one = Claim("5f2a", "lab", "secret")
        >>> one.continues(one), one.continues(Claim("5f2a", "lab", "guess")), Claim().continues(Claim())
        (True, False, False)
        """
        same = (self.run, self.coordinator) == (other.run, other.coordinator)
        return same and bool(self.run) and hmac.compare_digest(self.secret.encode(), other.secret.encode())

    @property
    def digest(self) -> str:
        """SHA-256 of the claim, as hexadecimal digits: a name for files, from which the secret cannot be computed."""
        return sha256(json.dumps([self.coordinator, self.run, self.secret]).encode()).hexdigest()


def takeover(secret: bytes, node: str) -> str:
    """Return a run's secret for one node, as 64 hexadecimal digits.

    It is HMAC-SHA256 of the node's id under the run's own secret. So a worker of the run cannot take over another.

    >>> takeover(bytes(32), "alice")[:16], takeover(bytes(32), "bob")[:16]
    ('4ff71fcb7212d6d6', '0547f51334797e8c')
    """
    return hmac.digest(secret, b"fedws takeover " + node.encode(), "sha256").hex()
