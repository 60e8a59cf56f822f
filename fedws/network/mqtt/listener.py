"""A node on a broker, however often the connection to it is lost."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from fedws.core.error_location import placed
from fedws.core.errors import LinkError, LinkLost, Refused, Unreachable, UsageError
from fedws.core.rate_limited_log import BURST, Complaints
from fedws.network.backoff import Pauses
from fedws.network.mqtt.session import Served, Session


class Node:
    """One node, for as long as :meth:`served` lasts."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._lines = Complaints(served.node, BURST)
        self._former: list[str] = []
        """Instances of this process that the broker may not have noticed to be gone."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: Session

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator[None]:
        """Serve. Raises UsageError or Unreachable when there is no first connection; later it is tried again."""
        try:
            await self._begin()
        except Refused as refused:
            raise UsageError(str(refused)) from None
        except LinkLost as lost:  # while it began
            raise Unreachable(str(lost)) from None
        keeping = asyncio.create_task(self._keep())
        try:
            yield
        finally:
            for task in (keeping, *self._tasks):
                task.cancel()
            await asyncio.gather(keeping, *self._tasks, return_exceptions=True)
            await self._session.end()

    async def _begin(self) -> None:
        session = Session(self._served, self._tasks)
        await session.begin(self._former)
        self._session = session

    async def _keep(self) -> None:
        broker = f"{self._served.address.host}:{self._served.address.port}"
        while True:
            error = await self._session.lost()
            self._former = [*self._former[-9:], self._session.instance]
            self._lines.hear(f"{error}; it is dialled again")
            await self._again()
            self._lines.hear(f"on the broker at {broker} again", logging.INFO)

    async def _again(self) -> None:
        """Begin until it succeeds, with pauses that are longer each time."""
        pauses, said = Pauses(self._served.limits.silence, self._session.instance), ""
        while True:
            await asyncio.sleep(pauses.next())
            try:
                return await self._begin()
            except (LinkError, UsageError) as error:
                if str(error) != said:
                    self._lines.hear(f"waiting for the broker ({error})")
                said = str(error)
            except Exception as error:  # a node that nobody watches must not be gone for good
                self._lines.hear(f"an error while the broker was dialled: {placed(error)}", logging.ERROR, error)
