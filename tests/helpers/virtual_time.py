"""Virtual time for tests, in which a minute passes at once and every timer is exact."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

from fedws.simulation import virtual_loop


def virtual(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test in virtual time; a test that waits for an event that never happens fails at once."""

    @functools.wraps(test)
    def run(*given: Any, **fixtures: Any) -> None:
        virtual_loop.run_in_virtual_time(test(*given, **fixtures))

    return run


def now() -> float:
    return asyncio.get_running_loop().time()
