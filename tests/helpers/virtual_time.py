"""Virtual time for tests: a minute is over at once, and nothing is ever early or late."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

from fedws.simulation import virtual_loop


def virtual(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test in virtual time; one that waits for what never comes fails at once."""

    @functools.wraps(test)
    def run(*given: Any, **fixtures: Any) -> None:
        virtual_loop.run_in_virtual_time(test(*given, **fixtures))

    return run


def now() -> float:
    return asyncio.get_running_loop().time()
