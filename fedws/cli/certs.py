"""The command ``fedws certs``, which creates a private CA and certificates of nodes for ``wss://``."""

import argparse

from fedws.cli.parser import Parser


def build_parser(prog: str) -> Parser:
    """Return the parser of the command."""
    flags = Parser(
        prog=prog,
        description="Create certificates for wss://. 'init' creates a CA, 'issue NAME' a certificate of node NAME. "
        "Copy NAME.pem, NAME.key and ca.pem to the device of that node. Keep ca.key on this machine.",
    )
    flags.add_argument("what", choices=("init", "issue"))
    flags.add_argument(
        "names", nargs="*", metavar="NAME", help="ids of nodes, such as alice; the coordinator's id is coordinator"
    )
    flags.add_argument(
        "--dir", metavar="D", default="certs", help="directory of the CA and of all created files (certs)"
    )
    flags.add_argument("--days", metavar="N", type=int, help="validity in days (3650 for the CA, 365 for a node)")
    return flags


def main(arguments: argparse.Namespace) -> int:
    """Create the CA or the certificates, and print their paths."""
    from pathlib import Path

    from fedws.core.errors import UsageError
    from fedws.security import certificates

    days = {} if arguments.days is None else {"days": arguments.days}
    if arguments.days is not None and not 0 < arguments.days <= 36500:
        raise UsageError(f"--days: expected 1 to 36500, got {arguments.days}")
    if (arguments.what == "issue") != bool(arguments.names):
        raise UsageError(
            "init does not accept names; remove them"
            if arguments.names
            else "issue requires the id of a node, such as alice"
        )
    folder = Path(arguments.dir)
    made = [certificates.create_ca(folder, **days)] if arguments.what == "init" else []
    made += [certificates.issue_certificate(folder, name, **days) for name in arguments.names]
    for cert, key in made:
        print(f"{cert}  {key}")
    return 0
