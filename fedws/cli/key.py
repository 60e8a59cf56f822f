"""The command ``fedws key``, which shows the user's network key or creates a new one."""

import argparse
import sys

from fedws.cli.parser import Parser


def build_parser(prog: str) -> Parser:
    """Return the parser of the command."""
    flags = Parser(
        prog=prog,
        description="Show or replace the network key that all nodes of a network share. The first node creates it.",
    )
    flags.add_argument(
        "what", choices=("show", "new"), help="show: print the key; new: replace it, for nodes that start from now on"
    )
    flags.add_argument("--key-file", metavar="F", help="file with the key (default: $FEDWS_KEY, or the user's key)")
    return flags


def main(arguments: argparse.Namespace) -> int:
    """Print the key, or with ``new`` create one and print its path.

    Print a hint if nodes started here would not use the new key.
    """
    import os
    from pathlib import Path

    from fedws.core.errors import UsageError
    from fedws.security import network_key

    if arguments.what == "show":
        key = network_key.load_network_key(arguments.key_file)
        if key.is_new:
            print(f"created a new network key in {key.origin}", file=sys.stderr)
        print(key.hex_text)
        return 0
    place = Path(arguments.key_file) if arguments.key_file else network_key.find_default_path()
    try:
        network_key.create_key(place, replace=True)
    except OSError as error:
        raise UsageError(f"cannot write {place}: {error.strerror or error}") from None
    if arguments.key_file is None and network_key.KEY_VARIABLE in os.environ:
        variable = network_key.KEY_VARIABLE
        print(f"a new key is in {place}, but {variable} is set and takes precedence; unset {variable}")
    else:
        print(f"a new key is in {place}; running nodes keep the old one until you restart them")
    return 0
