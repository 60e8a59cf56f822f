"""The command line of ``python -m evaluator``."""

import argparse
import re
from collections.abc import Sequence

_NODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""Form of a node's name: a coordinator accepts no other one in its plan."""
_EPILOG = (
    "The coordinator's record of each evaluation holds a confusion matrix, for a classifier of at most 100 classes. "
    "End the evaluator with Ctrl+C."
)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the arguments, by default those of the process. Print what is wrong and exit with status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluator",
        description="Serve a dedicated evaluator: the node that holds the test set and evaluates models on it.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("--id", type=_node_id, default="testing", help="name of the node (testing)")
    add("--host", default="localhost", help="address to listen on; 0.0.0.0 for all (localhost)")
    add("--port", type=_port, default=8780, help="port to listen on; 0 for a free one (8780)")
    add("--dataset", metavar="NAME", default="mnist", help="registered data set, as digits, which is small (mnist)")
    add("--data-dir", metavar="DIR", help="folder of the data set (else $FEDWS_DATA)")
    add("--plugin", action="append", default=[], metavar="FILE", help="local file that registers pieces; repeatable")
    keys = parser.add_mutually_exclusive_group()
    keys.add_argument("--key-file", metavar="FILE", help="network key (else $FEDWS_KEY, or the user's own)")
    keys.add_argument("--insecure", action="store_true", help="serve without a network key, to whoever connects")
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
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; ports are 0 to 65535")
    return int(text)


def _node_id(text: str) -> str:
    if not _NODE_ID.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a node's name; use at most 64 letters, digits, '.', '_' and '-', a letter or digit first"
        )
    return text
