"""Command line of ``python -m evaluator``."""

import argparse
import re
from collections.abc import Sequence

_NODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""Pattern of a node's name. A coordinator rejects a plan with other names."""
_EPILOG = (
    "For a classifier with at most 100 classes, the coordinator records a confusion matrix with each evaluation. "
    "End the evaluator with Ctrl+C."
)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed arguments, by default those of the process.

    If they are not valid, print the error and exit with status 2.
    """
    parser = argparse.ArgumentParser(
        prog="python -m evaluator",
        description="Serve a dedicated evaluator, the node that holds the test set and evaluates models on it.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("--id", type=_node_id, default="testing", help="name of the node (testing)")
    add("--host", default="localhost", help="address to listen on; 0.0.0.0 for all (localhost)")
    add("--port", type=_port, default=8780, help="port to listen on; 0 for a free one (8780)")
    add("--dataset", metavar="NAME", default="mnist", help="registered data set, for example the small digits (mnist)")
    add("--data-dir", metavar="DIR", help="folder of the data set (else $FEDWS_DATA)")
    add("--plugin", action="append", default=[], metavar="FILE", help="Python file that registers pieces; repeatable")
    keys = parser.add_mutually_exclusive_group()
    keys.add_argument(
        "--key-file", metavar="FILE", help="file with the network key (else $FEDWS_KEY or the user's key)"
    )
    keys.add_argument(
        "--insecure", action="store_true", help="serve any coordinator that connects, without a network key"
    )
    return parser.parse_args(argv)


def build_url(arguments: argparse.Namespace) -> str:
    """Return the URL to listen at.

    >>> build_url(parse_arguments(["--host", "::1", "--port", "0"]))
    'ws://[::1]:0'
    """
    host = arguments.host
    return f"ws://{f'[{host}]' if ':' in host and host[0] != '[' else host}:{arguments.port}"


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 5 or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a valid port; use 0 to 65535")
    return int(text)


def _node_id(text: str) -> str:
    if not _NODE_ID.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a valid node id; "
            "use at most 64 letters, digits, '.', '_' and '-', starting with a letter or digit"
        )
    return text
