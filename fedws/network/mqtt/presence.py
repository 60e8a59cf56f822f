"""The presence of a node at a broker, where each node id may be used by one instance only."""

import asyncio
from collections.abc import Collection

from fedws.core.errors import LinkError, LinkRefused, UsageError
from fedws.network.mqtt import topics
from fedws.network.mqtt.connection import BrokerConnection

MAX_OLDER_INSTANCES = 1000
"""Largest number of older instances that are tracked, for each of the two sets: online or claiming, and all others."""


class Presence:
    """The presence of one instance of a node, which claims the id first and is online if no older instance answers."""

    def __init__(self, broker: BrokerConnection, node: str, instance: str) -> None:
        self._broker = broker
        self._node = node
        self._instance = instance
        self._status = b""
        self._status_echoed = asyncio.Event()
        # Older instances that have published ONLINE or CLAIMING, even if other payloads followed on their topics.
        self._online_instances: set[str] = set()
        self._other_instances: set[str] = set()  # older instances with other payloads on their topics
        self._conflict_found = asyncio.Event()

    @property
    def is_online(self) -> bool:
        """True if coordinators may open links to the node."""
        return self._status == topics.ONLINE

    async def claim_id(self, former_instances: Collection[str]) -> None:
        """Publish the node as online if no other device uses its id.

        ``former_instances`` are earlier instances of this process. Raise UsageError if another device is connected with
        this id. Raise LinkRefused if the presence topic cannot be read, and LinkError if the connection is lost.
        """
        for other in former_instances:
            self._clear_status(other)
        self._publish_status(topics.CLAIMING)
        if not await self._broker.wait_for_event(self._status_echoed):  # Mosquitto does not report denied read access
            own_topic = topics.presence_topic(self._node, self._instance)
            reason = f"the broker does not allow {self._broker.user} to read {own_topic}, or is too slow"
            raise LinkRefused("policy", reason)
        probed = self._online_instances - set(former_instances)
        for other in probed:
            self._broker.publish(topics.presence_topic(self._node, other), topics.PROBE)
        if probed and await self._broker.wait_for_event(self._conflict_found):
            raise UsageError(f"{self._node} is already connected to this broker; give every node its own id")
        # The remaining instances have ended, and the broker has not detected it yet.
        for other in self._online_instances | self._other_instances:
            self._clear_status(other)
        self._online_instances.clear()
        self._other_instances.clear()
        self._publish_status(topics.ONLINE)

    def withdraw(self) -> None:
        """Publish that the node is no longer online. Raise LinkError if the connection is lost."""
        self._publish_status(b"")

    def handle_message(self, instance: str, payload: bytes, *, retained: bool) -> None:
        """Process a message on the presence topic of an instance.

        ``retained`` states that the broker stored the message before this connection subscribed.
        """
        if instance != self._instance:
            is_claim = payload in (topics.ONLINE, topics.CLAIMING)
            if not self._status_echoed.is_set():
                older = self._online_instances if is_claim else self._other_instances
                if len(older) < MAX_OLDER_INSTANCES:
                    older.add(instance)
            elif instance in self._online_instances and is_claim and not retained:
                self._conflict_found.set()
        elif payload == self._status:
            self._status_echoed.set()
        elif self._status and not self._broker.is_queued(topics.presence_topic(self._node, self._instance)):
            try:  # another client has sent a probe or overwritten the status
                self._publish_status(self._status)
            except LinkError:
                return

    def _clear_status(self, instance: str) -> None:
        self._broker.publish(topics.presence_topic(self._node, instance), b"", retain=True)

    def _publish_status(self, status: bytes) -> None:
        self._status = status
        self._broker.publish(topics.presence_topic(self._node, self._instance), status, retain=True)
