"""A node on a broker, however often the connection to it is lost."""

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
    """One node, for as long as :meth:`serve` lasts."""

    def __init__(self, config: ListenerConfig) -> None:
        self._config = config
        self._status_log = RateLimitedLog(config.node, BURST_LINES)
        self._former_instances: list[str] = []
        """Instances of this process that the broker may not have noticed to be gone."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: BrokerSession

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        """Serve. Raises UsageError or Unreachable when there is no first connection; later it is tried again."""
        try:
            await self._connect()
        except LinkRefused as refused:
            raise UsageError(str(refused)) from None
        except LinkLost as lost:  # while it began
            raise Unreachable(str(lost)) from None
        keeping = asyncio.create_task(self._keep_connected())
        try:
            yield
        finally:
            for task in (keeping, *self._tasks):
                task.cancel()
            await asyncio.gather(keeping, *self._tasks, return_exceptions=True)
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
            self._status_log.log(f"{error}; it is dialled again")
            await self._reconnect()
            self._status_log.log(f"on the broker at {broker} again", logging.INFO)

    async def _reconnect(self) -> None:
        """Begin until it succeeds, with pauses that are longer each time."""
        reasons = ReasonLog(self._status_log.log)

        async def attempt() -> bool | None:
            try:
                await self._connect()
            except (LinkError, UsageError) as error:
                reasons.add(str(error), f"waiting for the broker ({error})")
            except Exception as error:  # a bug costs a connection, and not the node
                self._status_log.log(
                    f"an error while the broker was dialled: {describe_with_location(error)}", logging.ERROR, error
                )
            else:
                return True
            return None

        backoff = Backoff(self._config.limits.max_backoff, self._session.instance)
        await retry(attempt, backoff, wait_first=True)
