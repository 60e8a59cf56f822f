"""``fedws demo-nodes``: the four default nodes on this machine, until Ctrl+C."""

import argparse
import sys

from fedws.cli.parser import Parser
from fedws.cli.security_flags import add_key_flags
from fedws.cli.shared_flags import add_local_flags

DATASET_HELP = "mnist (default), digits, fashion_mnist, cifar10 or your own, of which each worker holds a third"


def build_parser(prog: str) -> Parser:
    """The command's flags, handed on to every node."""
    flags = Parser(prog=prog, description="Start alice, bob, charlie and testing on this machine; Ctrl+C ends all.")
    flags.add_argument("--host", metavar="HOST", help="address to listen on; 0.0.0.0 for all (localhost)")
    flags.add_argument(
        "--first-port", metavar="N", type=int, default=8777, help="ports N to N + 3 are taken; 0: any free ones (8777)"
    )
    flags.add_argument("--policy", metavar="FILE", help="what the owner of the three workers allows (docs/security.md)")
    add_forwarded_flags(flags)
    return flags


def add_forwarded_flags(flags: argparse.ArgumentParser) -> None:
    """The flags that nodes started together share."""
    flags.add_argument("--dataset", metavar="NAME", help=DATASET_HELP)
    add_local_flags(flags)
    add_key_flags(flags)


def format_forwarded_flags(arguments: argparse.Namespace) -> list[str]:
    """Those flags as a node's command line."""
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
    """Start the nodes, show what they print, end them all when one ends or Ctrl+C comes."""
    from fedws.core import registry
    from fedws.launch.local_processes import NodeProcesses

    def say(node: str, line: str) -> None:
        sys.stdout.write(f"{node:8}{line}\n")  # at once with its end, for each node has a thread of its own
        sys.stdout.flush()

    policy = ["--policy", arguments.policy] if arguments.policy is not None else []
    own = not registry.is_shipped("dataset", arguments.dataset or "mnist")
    with NodeProcesses(
        format_forwarded_flags(arguments), say, arguments.first_port, policy, split_dataset=own
    ) as nodes:
        nodes.wait_until_serving()
        print("all four nodes are serving; Ctrl+C ends them", flush=True)
        print(f"{nodes.wait_for_exit()} has ended, and so all end", flush=True)
    return 1
