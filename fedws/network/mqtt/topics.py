"""The topics of nodes on a broker, and the names in them."""

import hashlib
import re
import secrets
from dataclasses import dataclass, field

PREFIX = "fedws/1"
NAME = re.compile(r"[0-9a-f]{32}")
"""Of an instance or a link."""
HERE, CLAIMS, PROBE = b"here", b"claims", b"?"
"""What is said on the topic of an instance: it serves; it would like to; and, by another one, whether it is there."""


@dataclass(frozen=True)
class Will:
    """What a broker says for somebody who can no longer: a secret. Its digest is the name of who may say it.

    So whoever knows that name knows an end by it, and nobody else can bring it about.
    """

    token: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    @property
    def name(self) -> str:
        """Of the instance, or link, that ends with it.

        >>> Will(bytes(32)).name
        '66687aadf862bd776c8fc18b8e9f8e20'
        """
        return hashlib.sha256(self.token).hexdigest()[:32]


def everything_here(node: str) -> str:
    """Where all instances of a node say that they are here; there should be one."""
    return f"{PREFIX}/{node}/here/+"


def here(node: str, instance: str) -> str:
    """Where one does; retained."""
    return f"{PREFIX}/{node}/here/{instance}"


def instance(node: str, topic: str) -> str | None:
    """Whose ``here`` a topic is; None if it is no such topic."""
    start, _, name = topic.rpartition("/")
    return name if start == f"{PREFIX}/{node}/here" and NAME.fullmatch(name) else None


def everything_down(node: str) -> str:
    """What all coordinators send a node."""
    return f"{PREFIX}/{node}/link/+/down"


def down(node: str, link: str) -> str:
    """Coordinator to node."""
    return f"{PREFIX}/{node}/link/{link}/down"


def up(node: str, link: str) -> str:
    """Node to coordinator."""
    return f"{PREFIX}/{node}/link/{link}/up"


def link(node: str, topic: str) -> str | None:
    """Whose ``down`` a topic is; None if it is no such topic."""
    head, tail = f"{PREFIX}/{node}/link/", "/down"
    name = topic[len(head) : -len(tail)]
    return name if topic.startswith(head) and topic.endswith(tail) and NAME.fullmatch(name) else None
