"""The topics of nodes at a broker, and the names in them."""

import hashlib
import re
import secrets
from dataclasses import dataclass, field

TOPIC_PREFIX = "fedws/1"
NAME_PATTERN = re.compile(r"[0-9a-f]{32}")
"""Pattern of the name of an instance or a link."""
ONLINE, CLAIMING, PROBE = b"online", b"claiming", b"?"
"""Payloads on the presence topic of an instance.

The instance itself publishes that it is online, or that it claims the node id. Another instance publishes the probe.
"""


@dataclass(frozen=True)
class EndToken:
    """The secret that the broker publishes as the will of an instance or a link.

    The name of the instance or link is a digest of the secret. Every peer that has the name can therefore verify the
    will, and only the owner of the secret can cause it.
    """

    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    @property
    def name(self) -> str:
        """Name of the instance or link that ends with this token.

        >>> EndToken(bytes(32)).name
        '66687aadf862bd776c8fc18b8e9f8e20'
        """
        return hashlib.sha256(self.secret).hexdigest()[:32]


def presence_filter(node: str) -> str:
    """Return the filter for the presence topics of all instances of a node, of which at most one should be online."""
    return f"{TOPIC_PREFIX}/{node}/presence/+"


def presence_topic(node: str, instance: str) -> str:
    """Return the topic of the retained presence of one instance."""
    return f"{TOPIC_PREFIX}/{node}/presence/{instance}"


def parse_presence_topic(node: str, topic: str) -> str | None:
    """Return the instance of a presence topic of ``node``, or None for any other topic."""
    start, _, name = topic.rpartition("/")
    return name if start == f"{TOPIC_PREFIX}/{node}/presence" and NAME_PATTERN.fullmatch(name) else None


def downlink_filter(node: str) -> str:
    """Return the filter for the frames of all coordinators to a node."""
    return f"{TOPIC_PREFIX}/{node}/link/+/down"


def downlink_topic(node: str, link: str) -> str:
    """Return the topic for frames from the coordinator to the node."""
    return f"{TOPIC_PREFIX}/{node}/link/{link}/down"


def uplink_topic(node: str, link: str) -> str:
    """Return the topic for frames from the node to the coordinator."""
    return f"{TOPIC_PREFIX}/{node}/link/{link}/up"


def parse_downlink_topic(node: str, topic: str) -> str | None:
    """Return the link of a downlink topic of ``node``, or None for any other topic."""
    head, tail = f"{TOPIC_PREFIX}/{node}/link/", "/down"
    name = topic[len(head) : -len(tail)]
    return name if topic.startswith(head) and topic.endswith(tail) and NAME_PATTERN.fullmatch(name) else None
