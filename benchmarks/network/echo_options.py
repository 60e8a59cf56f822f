"""What the two echoing peers of a round share: their command line and their limit."""

import argparse
from collections.abc import Callable

MAX_ROUND = 120.0
"""Seconds after which a round is given up."""


def command(prog: str, serve: Callable[[], None], drive: Callable[[int, int, list[int]], None]) -> None:
    """Read the command line and be a worker, or the coordinator of so many bytes, rounds and workers' ports."""
    parser = argparse.ArgumentParser(prog=prog)
    role = parser.add_subparsers(dest="role", required=True)
    role.add_parser("serve", help="be a worker; prints 'port N'")
    driver = role.add_parser("drive", help="be the coordinator; prints 'round SECONDS' for each round")
    driver.add_argument("size", type=int, help="bytes of the model")
    driver.add_argument("rounds", type=int)
    driver.add_argument("ports", type=int, nargs="+")
    given = parser.parse_args()
    if given.role == "serve":
        serve()
    else:
        drive(given.size, given.rounds, given.ports)
