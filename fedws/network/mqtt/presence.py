"""That a node is on a broker, and only once."""

import asyncio
from collections.abc import Collection

from fedws.core.errors import LinkError, LinkRefused, UsageError
from fedws.network.mqtt import topics
from fedws.network.mqtt.connection import BrokerConnection

MAX_OLDER_INSTANCES = 1000
"""Older instances that are looked after, at most, of those that say that they are here, and of those that do not."""


class Presence:
    """Of one instance of a node; it claims the id first, and is here once no older one answers."""

    def __init__(self, broker: BrokerConnection, node: str, instance: str) -> None:
        self._broker = broker
        self._node = node
        self._instance = instance
        self._status = b""
        self._status_echoed = asyncio.Event()
        self._online_instances: set[str] = (
            set()
        )  # older ones that have said that they are here; asked, or denied, meanwhile
        self._other_instances: set[str] = set()  # older ones of which something else was said
        self._conflict_found = asyncio.Event()

    @property
    def is_online(self) -> bool:
        """Whether the node may be dialled."""
        return self._status == topics.ONLINE

    async def claim_id(self, former_instances: Collection[str]) -> None:
        """Be here. ``former_instances`` are instances of this very process, which are gone.

        Raises UsageError when another device is here under this id; LinkError.
        """
        for other in former_instances:
            self._clear_status(other)
        self._publish_status(topics.CLAIMING)
        if not await self._broker.wait_for_event(self._status_echoed):  # Mosquitto does not say what one may not read
            own = topics.presence_topic(self._node, self._instance)
            raise LinkRefused("policy", f"the broker does not let {self._broker.user} read {own}, or is too slow")
        lasting = self._online_instances - set(former_instances)
        for other in lasting:
            self._broker.publish(topics.presence_topic(self._node, other), topics.PROBE)
        if lasting and await self._broker.wait_for_event(self._conflict_found):
            raise UsageError(f"{self._node} is on this broker already; every node has an id of its own")
        for other in self._online_instances | self._other_instances:  # whose end the broker has not noticed yet
            self._clear_status(other)
        self._online_instances.clear()
        self._other_instances.clear()
        self._publish_status(topics.ONLINE)

    def withdraw(self) -> None:
        """Be here no more. Raises LinkError."""
        self._publish_status(b"")

    def handle_message(self, instance: str, payload: bytes, *, retained: bool) -> None:
        """Something was said on the topic of an instance; ``retained`` this connection began, or now."""
        if instance != self._instance:
            says = payload in (topics.ONLINE, topics.CLAIMING)
            if not self._status_echoed.is_set():
                older = self._online_instances if says else self._other_instances
                if len(older) < MAX_OLDER_INSTANCES:
                    older.add(instance)
            elif instance in self._online_instances and says and not retained:
                self._conflict_found.set()
        elif payload == self._status:
            self._status_echoed.set()
        elif self._status and not self._broker.is_queued(topics.presence_topic(self._node, self._instance)):
            try:  # somebody asks whether we are here, or says that we are not
                self._publish_status(self._status)
            except LinkError:
                return

    def _clear_status(self, instance: str) -> None:
        self._broker.publish(topics.presence_topic(self._node, instance), b"", retain=True)

    def _publish_status(self, status: bytes) -> None:
        self._status = status
        self._broker.publish(topics.presence_topic(self._node, self._instance), status, retain=True)
