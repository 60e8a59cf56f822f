"""The command ``fedws demo``, which starts four nodes as processes, does a run, and ends all processes."""

import argparse
import sys

from fedws.cli.demo_nodes import add_forwarded_flags, format_forwarded_flags
from fedws.cli.parser import Parser, name_flags_in_errors
from fedws.core.errors import FedwsError

_FAILURE_LOG_LINES = 8
"""Number of lines of the nodes' output that are printed if a run fails."""


def build_parser(prog: str) -> Parser:
    """Return the parser of the command."""
    flags = Parser(prog=prog, description="Run federated learning on MNIST across four processes of this machine.")
    add_forwarded_flags(flags)
    flags.add_argument("--rounds", metavar="N", type=int, default=40, help="number of rounds (40)")
    flags.add_argument("--seed", metavar="N", type=int, default=1, help="seed of the run (1)")
    flags.add_argument("--run-dir", metavar="D", help="directory of the run, new or empty (runs/<time>-<algorithm>)")
    return flags


def main(arguments: argparse.Namespace) -> int:
    """Load the data, start the nodes, and do the run.

    If MNIST cannot be loaded, use the digits of scikit-learn.
    """
    from fedws.cli import run
    from fedws.core import registry
    from fedws.core.plan import build_plan
    from fedws.launch.local_processes import NodeProcesses

    settings = {"rounds": arguments.rounds, "seed": arguments.seed}
    name_flags_in_errors(lambda: build_plan(settings), settings)  # report errors before starting four nodes
    arguments.dataset = _choose_dataset(arguments)
    lines: list[str] = []

    def store_line(node: str, line: str) -> None:
        lines.append(f"{node}: {line}")

    print("starting alice, bob, charlie and testing ...", flush=True)
    is_user_dataset = not registry.is_shipped("dataset", arguments.dataset)
    with NodeProcesses(
        format_forwarded_flags(arguments), store_line, first_port=0, split_dataset=is_user_dataset
    ) as nodes:
        try:
            nodes.wait_until_serving()
        except BaseException:
            print("\n".join(lines[-_FAILURE_LOG_LINES:]), file=sys.stderr)
            raise
        for line in lines:
            if "len(datasets" in line or "is serving at" in line:
                print(line)
        urls = [f"{node}={url}" for node, url in nodes.urls.items()]
        flags = ["--workers", *urls[:-1], "--evaluator", urls[-1], "--dataset", arguments.dataset]
        flags += ["--rounds", str(arguments.rounds), "--seed", str(arguments.seed)]
        flags += ["--run-dir", arguments.run_dir] if arguments.run_dir else []
        for plugin in arguments.plugins or ():
            flags += ["--plugin", plugin]
        flags += ["--key-file", arguments.key_file] if arguments.key_file else []
        flags += ["--insecure"] if arguments.insecure else []
        flags += ["--verbose"] if arguments.verbose else []
        serving = len(lines)
        try:
            status = run.main(run.build_parser("fedws demo").parse_args(flags), show_resume_command=False)
        except FedwsError:  # a node's log may contain the reason
            print("\n".join(lines[serving:][-_FAILURE_LOG_LINES:]), file=sys.stderr)
            raise
    print("alice, bob, charlie and testing ended")
    return status


def _choose_dataset(arguments: argparse.Namespace) -> str:
    """Return the requested data set, or MNIST by default.

    If MNIST cannot be loaded, return the digits that come with scikit-learn.
    """
    from fedws.core.errors import UsageError
    from fedws.core.plugins import load_plugins
    from fedws.data import loading

    load_plugins(arguments.plugins or ())
    if arguments.dataset is not None:
        loading.load_dataset(arguments.dataset, arguments.data_dir, train=True)
        return str(arguments.dataset)
    try:
        loading.load_dataset("mnist", arguments.data_dir, train=True)
    except UsageError as error:
        print(f"{error.args[0].partition(';')[0]}: using the 1,797 real digits of scikit-learn instead", flush=True)
        return "digits"
    return "mnist"
