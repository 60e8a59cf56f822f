"""A node that is served at a broker, over all its connections to the broker."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from fedws.core.error_text import describe_with_location
from fedws.core.errors import LinkError, LinkLost, LinkRefused, Unreachable, UsageError
from fedws.core.rate_limited_log import BURST_LINES, RateLimitedLog
from fedws.network.backoff import Backoff, ReasonLog, retry
from fedws.network.mqtt.session import BrokerSession, ListenerConfig


class MqttListener:
    """One node at a broker, for the duration of ``serve``."""

    def __init__(self, config: ListenerConfig) -> None:
        self._config = config
        self._status_log = RateLimitedLog(config.node, BURST_LINES)
        self._former_instances: list[str] = []
        """Earlier instances of this process, whose end the broker may not have detected yet."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: BrokerSession

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        """Serve the node while the context is open, and reconnect after a lost connection.

        Raise UsageError or Unreachable if the first connection fails.
        """
        try:
            await self._connect()
        except LinkRefused as refused:
            raise UsageError(str(refused)) from None
        except LinkLost as lost:  # the connection was lost during its start
            raise Unreachable(str(lost)) from None
        reconnecting = asyncio.create_task(self._keep_connected())
        try:
            yield
        finally:
            for task in (reconnecting, *self._tasks):
                task.cancel()
            await asyncio.gather(reconnecting, *self._tasks, return_exceptions=True)
            await self._session.close()

    async def _connect(self) -> None:
        session = BrokerSession(self._config, self._tasks)
        await session.start(self._former_instances)
        self._session = session

    async def _keep_connected(self) -> None:
        broker = f"{self._config.address.host}:{self._config.address.port}"
        while True:
            error = await self._session.wait_lost()
            self._former_instances = [*self._former_instances[-9:], self._session.instance]
            self._status_log.log(f"{error}; reconnecting")
            await self._reconnect()
            self._status_log.log(f"reconnected to the broker at {broker}", logging.INFO)

    async def _reconnect(self) -> None:
        """Connect with retries and back-off until it succeeds."""
        reasons = ReasonLog(self._status_log.log)

        async def attempt() -> bool | None:
            try:
                await self._connect()
            except (LinkError, UsageError) as error:
                reasons.add(str(error), f"waiting for the broker ({error})")
            except Exception as error:  # a bug must end the attempt only, not the node
                self._status_log.log(
                    f"cannot connect to the broker: {describe_with_location(error)}", logging.ERROR, error
                )
            else:
                return True
            return None

        backoff = Backoff(self._config.limits.max_backoff, self._session.instance)
        await retry(attempt, backoff, wait_first=True)
