"""The command ``fedws demo-nodes``, which serves the four default nodes on this machine until Ctrl+C."""

import argparse
import sys

from fedws.cli.parser import Parser
from fedws.cli.security_flags import add_key_flags
from fedws.cli.shared_flags import add_local_flags

DATASET_HELP = "data set: mnist (default), digits, fashion_mnist, cifar10, or your own (each worker holds a third)"


def build_parser(prog: str) -> Parser:
    """Return the parser of the command."""
    flags = Parser(
        prog=prog, description="Start the nodes alice, bob, charlie and testing on this machine. Ctrl+C ends all."
    )
    flags.add_argument("--host", metavar="HOST", help="address to listen on; 0.0.0.0 for all (localhost)")
    flags.add_argument(
        "--first-port",
        metavar="N",
        type=int,
        default=8777,
        help="first of four consecutive ports; 0 for free ones (8777)",
    )
    flags.add_argument(
        "--policy", metavar="FILE", help="policy of the three workers, as TOML (see docs/topics/security.md)"
    )
    add_forwarded_flags(flags)
    return flags


def add_forwarded_flags(flags: argparse.ArgumentParser) -> None:
    """Add the flags that are forwarded to all nodes."""
    flags.add_argument("--dataset", metavar="NAME", help=DATASET_HELP)
    add_local_flags(flags)
    add_key_flags(flags)


def format_forwarded_flags(arguments: argparse.Namespace) -> list[str]:
    """Return the forwarded flags as arguments of a node."""
    found = []
    for name in ("host", "dataset", "data_dir", "key_file"):
        value = getattr(arguments, name, None)
        if value is not None:
            found += [f"--{name}", value]
    found += ["--insecure"] if arguments.insecure else []
    found += ["--verbose"] if arguments.verbose else []
    for plugin in arguments.plugins or ():
        found += ["--plugin", plugin]
    return found


def main(arguments: argparse.Namespace) -> int:
    """Start the nodes and print their output, and end all of them when one ends or on Ctrl+C."""
    from fedws.core import registry
    from fedws.launch.local_processes import NodeProcesses

    def print_line(node: str, line: str) -> None:
        sys.stdout.write(f"{node:8}{line}\n")  # one call with the line end, since each node has a thread
        sys.stdout.flush()

    policy = ["--policy", arguments.policy] if arguments.policy is not None else []
    is_user_dataset = not registry.is_shipped("dataset", arguments.dataset or "mnist")
    with NodeProcesses(
        format_forwarded_flags(arguments), print_line, arguments.first_port, policy, split_dataset=is_user_dataset
    ) as nodes:
        nodes.wait_until_serving()
        print("all four nodes are serving; Ctrl+C ends them", flush=True)
        print(f"{nodes.wait_for_exit()} ended; ending the other nodes", flush=True)
    return 1
