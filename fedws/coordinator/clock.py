"""The coordinator's clock."""

import asyncio
import time


def monotonic_seconds() -> float:
    """Return the time in seconds, from ``perf_counter`` or from the clock of an event loop in virtual time.

    ``time.perf_counter`` can be finer than an event loop's own clock.
    """
    loop = asyncio.get_running_loop()
    return float(loop.time()) if getattr(loop, "virtual", False) else time.perf_counter()
