"""``fedws demo``: four nodes as processes, a whole run over them, the result; and every process has ended."""

import argparse
import sys

from fedws.cli.demo_nodes import add_forwarded_flags, format_forwarded_flags
from fedws.cli.parser import Parser, name_flags_in_errors
from fedws.core.errors import FedwsError

_FAILURE_LOG_LINES = 8
"""Lines of the nodes' output that are printed where a run fails."""


def build_parser(prog: str) -> Parser:
    """The command's flags."""
    flags = Parser(prog=prog, description="Federated learning on MNIST across four processes of this machine.")
    add_forwarded_flags(flags)
    flags.add_argument("--rounds", metavar="N", type=int, default=40, help="(40)")
    flags.add_argument("--seed", metavar="N", type=int, default=1, help="the run's seed (1)")
    flags.add_argument("--run-dir", metavar="D", help="the run's directory, new or empty (runs/<time>-<algorithm>)")
    return flags


def main(arguments: argparse.Namespace) -> int:
    """Fetch the data, or take the digits of scikit-learn where there are none; start the nodes; run."""
    from fedws.cli import run
    from fedws.core import registry
    from fedws.core.plan import build_plan
    from fedws.launch.local_processes import NodeProcesses

    settings = {"rounds": arguments.rounds, "seed": arguments.seed}
    name_flags_in_errors(lambda: build_plan(settings), settings)  # before four nodes are started
    arguments.dataset = _choose_dataset(arguments)
    lines: list[str] = []

    def say(node: str, line: str) -> None:
        lines.append(f"{node}: {line}")

    print("starting alice, bob, charlie and testing ...", flush=True)
    own = not registry.is_shipped("dataset", arguments.dataset)
    with NodeProcesses(format_forwarded_flags(arguments), say, first_port=0, split_dataset=own) as nodes:
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
        except FedwsError:  # the reason may be in a node's log
            print("\n".join(lines[serving:][-_FAILURE_LOG_LINES:]), file=sys.stderr)
            raise
    print("alice, bob, charlie and testing have ended")
    return status


def _choose_dataset(arguments: argparse.Namespace) -> str:
    """The data set asked for, or MNIST; where MNIST cannot be had, the digits that ship with scikit-learn."""
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
        print(f"{error.args[0].partition(';')[0]}: taking the 1,797 real digits of scikit-learn instead", flush=True)
        return "digits"
    return "mnist"
