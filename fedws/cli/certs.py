"""``fedws certs``: a private CA, and certificates of nodes, for ``wss://``."""

import argparse

from fedws.cli.parser import Parser


def build_parser(prog: str) -> Parser:
    """The command's flags."""
    flags = Parser(
        prog=prog,
        description="Certificates for wss://. 'init' makes a CA; 'issue NAME' a certificate for the node of that id. "
        "Take NAME.pem, NAME.key and ca.pem to the device of that node; ca.key stays here.",
    )
    flags.add_argument("what", choices=("init", "issue"))
    flags.add_argument(
        "names", nargs="*", metavar="NAME", help="ids of nodes, as alice; of the coordinator: coordinator"
    )
    flags.add_argument("--dir", metavar="D", default="certs", help="where the CA is, and all that is made (certs)")
    flags.add_argument("--days", metavar="N", type=int, help="how long they are valid (the CA 3650, a node 365)")
    return flags


def main(arguments: argparse.Namespace) -> int:
    """Make them, and say where they are."""
    from pathlib import Path

    from fedws.core.errors import UsageError
    from fedws.security import certificates

    days = {} if arguments.days is None else {"days": arguments.days}
    if arguments.days is not None and not 0 < arguments.days <= 36500:
        raise UsageError(f"--days {arguments.days}: 1 to 36500")
    if (arguments.what == "issue") != bool(arguments.names):
        raise UsageError("init takes no name" if arguments.names else "issue whom? fedws certs issue alice")
    folder = Path(arguments.dir)
    made = [certificates.create_ca(folder, **days)] if arguments.what == "init" else []
    made += [certificates.issue_certificate(folder, name, **days) for name in arguments.names]
    for cert, key in made:
        print(f"{cert}  {key}")
    return 0
