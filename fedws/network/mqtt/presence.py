"""That a node is on a broker, and only once."""

import asyncio
from collections.abc import Collection

from fedws.core.errors import LinkError, Refused, UsageError
from fedws.network.mqtt import topics
from fedws.network.mqtt.connection import Broker

MOST = 1000
"""Older instances that are looked after, at most, of those that say that they are here, and of those that do not."""


class Presence:
    """Of one instance of a node; it claims the id first, and is here once no older one answers."""

    def __init__(self, broker: Broker, node: str, instance: str) -> None:
        self._broker = broker
        self._node = node
        self._instance = instance
        self._said = b""
        self._heard = asyncio.Event()
        self._lasting: set[str] = set()  # older ones that have said that they are here; asked, or denied, meanwhile
        self._silent: set[str] = set()  # older ones of which something else was said
        self._alive = asyncio.Event()

    @property
    def here(self) -> bool:
        """Whether the node may be dialled."""
        return self._said == topics.HERE

    async def claim(self, former: Collection[str]) -> None:
        """Be here. ``former`` are instances of this very process, which are gone.

        Raises UsageError when another device is here under this id; LinkError.
        """
        for other in former:
            self._clear(other)
        self._say(topics.CLAIMS)
        if not await self._broker.soon(self._heard):  # Mosquitto does not say what one may not read
            own = topics.here(self._node, self._instance)
            raise Refused("policy", f"the broker does not let {self._broker.user} read {own}, or is too slow")
        lasting = self._lasting - set(former)
        for other in lasting:
            self._broker.publish(topics.here(self._node, other), topics.PROBE)
        if lasting and await self._broker.soon(self._alive):
            raise UsageError(f"{self._node} is on this broker already; every node has an id of its own")
        for other in self._lasting | self._silent:  # whose end the broker has not noticed yet
            self._clear(other)
        self._lasting.clear()
        self._silent.clear()
        self._say(topics.HERE)

    def withdraw(self) -> None:
        """Be here no more. Raises LinkError."""
        self._say(b"")

    def hear(self, instance: str, payload: bytes, *, before: bool) -> None:
        """Something was said on the topic of an instance; ``before`` this connection began, or now."""
        if instance != self._instance:
            says = payload in (topics.HERE, topics.CLAIMS)
            if not self._heard.is_set():
                older = self._lasting if says else self._silent
                if len(older) < MOST:
                    older.add(instance)
            elif instance in self._lasting and says and not before:
                self._alive.set()
        elif payload == self._said:
            self._heard.set()
        elif self._said and not self._broker.waits(topics.here(self._node, self._instance)):
            try:  # somebody asks whether we are here, or says that we are not
                self._say(self._said)
            except LinkError:
                return

    def _clear(self, instance: str) -> None:
        self._broker.publish(topics.here(self._node, instance), b"", retain=True)

    def _say(self, what: bytes) -> None:
        self._said = what
        self._broker.publish(topics.here(self._node, self._instance), what, retain=True)
