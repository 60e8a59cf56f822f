"""Flags that several commands have."""

import argparse

from fedws.cli.security_flags import add_security_flags
from fedws.cli.store_flags import add_store_flags


def add_local_flags(parser: argparse.ArgumentParser) -> None:
    """The flags for what a command takes from this machine."""
    add = parser.add_argument
    add("--data-dir", metavar="D", help="where data sets are (default: $FEDWS_DATA, or the user's cache)")
    add("--plugin", dest="plugins", metavar="FILE.py", action="append", help="a file of yours that registers pieces")


def add_node_flags(parser: argparse.ArgumentParser, *, threads_help: str) -> None:
    """The flags that worker and coordinator share."""
    parser.add_argument("--dataset", metavar="NAME", help="mnist (default), digits, fashion_mnist, cifar10 or your own")
    add_local_flags(parser)
    parser.add_argument("--threads", metavar="N", type=int, help=threads_help)
    parser.add_argument(
        "--peer-timeout", metavar="S", type=float, help="seconds without a message after which a node is lost (60)"
    )
    parser.add_argument(
        "--ping-interval", metavar="S", type=float, help="seconds between pings (a third of --peer-timeout)"
    )
    parser.add_argument("--max-message-bytes", metavar="N", type=int, help="largest message accepted (1073741824)")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="log tracebacks of errors, and what the websocket library reports"
    )
    add_security_flags(parser)
    add_store_flags(parser)
