"""A bounded wait for a result that is available at once unless something is wrong."""

import asyncio
from collections.abc import Awaitable
from typing import Any

from tests.helpers.federation import PATIENCE


async def soon(what: Awaitable[Any]) -> Any:
    """Wait a short time for a result, and return it."""
    async with asyncio.timeout(PATIENCE):
        return await what
