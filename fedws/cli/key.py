"""``fedws key``: show the user's own network key, or make a new one."""

import argparse
import sys

from fedws.cli.parser import Parser


def build_parser(prog: str) -> Parser:
    """The command's flags."""
    flags = Parser(
        prog=prog,
        description="The network key, which every node of one network must know. A user's first node makes it.",
    )
    flags.add_argument("what", choices=("show", "new"), help="show: print it; new: replace it, for all nodes to come")
    flags.add_argument("--key-file", metavar="F", help="that file (default: $FEDWS_KEY, or the user's own)")
    return flags


def main(arguments: argparse.Namespace) -> int:
    """Print the key; with ``new``, where it was written, and whether it is the one that nodes started here will use."""
    import os
    from pathlib import Path

    from fedws.core.errors import UsageError
    from fedws.security import network_key

    if arguments.what == "show":
        key = network_key.load_network_key(arguments.key_file)
        if key.is_new:
            print(f"there was none: made a new one, in {key.origin}", file=sys.stderr)
        print(key.hex_text)
        return 0
    place = Path(arguments.key_file) if arguments.key_file else network_key.find_default_path()
    try:
        network_key.create_key(place, replace=True)
    except OSError as error:
        raise UsageError(f"{place} cannot be written: {error.strerror or error}") from None
    if arguments.key_file is None and network_key.KEY_VARIABLE in os.environ:
        variable = network_key.KEY_VARIABLE
        print(f"a new key is in {place}, but {variable} is set here and goes before it: unset {variable}")
    else:
        print(f"a new key is in {place}; nodes that run keep the old one until they are started again")
    return 0
