"""Flags that several commands share."""

import argparse

from fedws.cli.security_flags import add_security_flags
from fedws.cli.store_flags import add_store_flags


def add_local_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for data and plugins on this machine."""
    add = parser.add_argument
    add("--data-dir", metavar="D", help="directory of data sets (default: $FEDWS_DATA, or the user's cache)")
    add(
        "--plugin",
        dest="plugins",
        metavar="FILE.py",
        action="append",
        help="Python file that registers pieces; repeatable",
    )


def add_node_flags(parser: argparse.ArgumentParser, *, threads_help: str) -> None:
    """Add the flags that nodes and the coordinator share."""
    parser.add_argument(
        "--dataset", metavar="NAME", help="data set: mnist (default), digits, fashion_mnist, cifar10 or your own"
    )
    add_local_flags(parser)
    parser.add_argument("--threads", metavar="N", type=int, help=threads_help)
    parser.add_argument(
        "--peer-timeout", metavar="S", type=float, help="seconds without a message after which a link is lost (60)"
    )
    parser.add_argument(
        "--ping-interval", metavar="S", type=float, help="seconds between pings (a third of --peer-timeout)"
    )
    parser.add_argument(
        "--max-message-bytes", metavar="N", type=int, help="size in bytes of the largest message accepted (1073741824)"
    )
    parser.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="log tracebacks of errors and the messages of the websocket library",
    )
    add_security_flags(parser)
    add_store_flags(parser)
