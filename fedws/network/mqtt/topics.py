"""The topics of nodes on a broker, and the names in them."""

import hashlib
import re
import secrets
from dataclasses import dataclass, field

TOPIC_PREFIX = "fedws/1"
NAME_PATTERN = re.compile(r"[0-9a-f]{32}")
"""Of an instance or a link."""
ONLINE, CLAIMING, PROBE = b"online", b"claiming", b"?"
"""What is said on the topic of an instance: it serves; it would like to; and, by another one, whether it is there."""


@dataclass(frozen=True)
class EndToken:
    """What a broker says for somebody who can no longer: a secret. Its digest is the name of who may say it.

    So whoever knows that name knows an end by it, and nobody else can bring it about.
    """

    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    @property
    def name(self) -> str:
        """Of the instance, or link, that ends with it.

        >>> EndToken(bytes(32)).name
        '66687aadf862bd776c8fc18b8e9f8e20'
        """
        return hashlib.sha256(self.secret).hexdigest()[:32]


def presence_filter(node: str) -> str:
    """Where all instances of a node say that they are here; there should be one."""
    return f"{TOPIC_PREFIX}/{node}/presence/+"


def presence_topic(node: str, instance: str) -> str:
    """Where one does; retained."""
    return f"{TOPIC_PREFIX}/{node}/presence/{instance}"


def parse_presence_topic(node: str, topic: str) -> str | None:
    """Whose ``presence_topic`` a topic is; None if it is no such topic."""
    start, _, name = topic.rpartition("/")
    return name if start == f"{TOPIC_PREFIX}/{node}/presence" and NAME_PATTERN.fullmatch(name) else None


def downlink_filter(node: str) -> str:
    """What all coordinators send a node."""
    return f"{TOPIC_PREFIX}/{node}/link/+/down"


def downlink_topic(node: str, link: str) -> str:
    """Coordinator to node."""
    return f"{TOPIC_PREFIX}/{node}/link/{link}/down"


def uplink_topic(node: str, link: str) -> str:
    """Node to coordinator."""
    return f"{TOPIC_PREFIX}/{node}/link/{link}/up"


def parse_downlink_topic(node: str, topic: str) -> str | None:
    """Whose ``downlink_topic`` a topic is; None if it is no such topic."""
    head, tail = f"{TOPIC_PREFIX}/{node}/link/", "/down"
    name = topic[len(head) : -len(tail)]
    return name if topic.startswith(head) and topic.endswith(tail) and NAME_PATTERN.fullmatch(name) else None
