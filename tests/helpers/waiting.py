"""A bounded wait for a result that comes at once unless something is wrong."""

import asyncio
from collections.abc import Awaitable
from typing import Any

from tests.helpers.federation import PATIENCE


async def soon(what: Awaitable[Any]) -> Any:
    """A result that comes, or never."""
    async with asyncio.timeout(PATIENCE):
        return await what
