"""The coordinator's clock."""

import asyncio
import time


def monotonic_seconds() -> float:
    """Seconds, finer than a loop's clock needs to be; an event loop in virtual time has a clock of its own."""
    loop = asyncio.get_running_loop()
    return float(loop.time()) if getattr(loop, "virtual", False) else time.perf_counter()
