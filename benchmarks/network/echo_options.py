"""Command line and timeout that the two echo programs share."""

import argparse
from collections.abc import Callable

MAX_ROUND = 120.0
"""Timeout of a round in seconds."""


def command(prog: str, serve: Callable[[], None], drive: Callable[[int, int, list[int]], None]) -> None:
    """Parse the command line, and call ``serve`` or ``drive``.

    ``serve`` is one worker. ``drive`` is the coordinator; its arguments are the size of the model in bytes, the number
    of rounds, and the ports of the workers.
    """
    parser = argparse.ArgumentParser(prog=prog)
    role = parser.add_subparsers(dest="role", required=True)
    role.add_parser("serve", help="run a worker, which prints 'port N'")
    driver = role.add_parser("drive", help="run the coordinator, which prints 'round SECONDS' for each round")
    driver.add_argument("size", type=int, help="size of the model in bytes")
    driver.add_argument("rounds", type=int, help="number of rounds")
    driver.add_argument("ports", type=int, nargs="+", help="ports of the workers")
    given = parser.parse_args()
    if given.role == "serve":
        serve()
    else:
        drive(given.size, given.rounds, given.ports)
