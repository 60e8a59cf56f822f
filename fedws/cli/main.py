"""Entry points of the command ``fedws`` and of the two demo scripts.

Only the modules of the chosen command are imported.
"""

import argparse
import contextlib
import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from fedws.cli import signals
from fedws.cli.former_names import FORMER_COMMANDS
from fedws.cli.parser import Parser
from fedws.cli.streams import set_up_streams

COMMANDS = {
    "worker": "serve one worker, or with --evaluator the evaluator",
    "evaluator": "serve the evaluator, same as fedws worker --evaluator",
    "run": "coordinate a run of workers that are already serving",
    "demo-nodes": "start the four demo nodes on this machine; Ctrl+C ends all",
    "demo": "start the four demo nodes, do a run, and stop the nodes",
    "simulate": "run algorithms on a simulated fleet, in virtual time",
    "pretrain": "train the initial model of MistNet on public data",
    "attack": "measure how much of the images MistNet's features reveal",
    "communication-cost": "print sizes of models, data and features, and the traffic",
    "plot": "redraw curves.png of a run",
    "key": "show the network key, or create a new one",
    "certs": "create certificates for wss://",
    "audit": "print or verify the audit log of what left a node",
}


def console() -> None:
    """Run the command ``fedws`` and exit with its status."""
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit status."""
    set_up_streams()
    try:
        top = _build_top_parser()
        name = top.parse_args(list(argv[:1])).command
        if name is None:
            top.print_help()
            return 2
        if name not in COMMANDS:
            near = difflib.get_close_matches(name, [*COMMANDS, *FORMER_COMMANDS], n=1)
            hint = f"; did you mean {FORMER_COMMANDS.get(near[0], near[0])!r}?" if near else ""
            top.error(f"unknown command {name!r}{hint}")
        return run_command(name, f"fedws {name}", argv[1:])
    except KeyboardInterrupt:
        return 130


def run_command(name: str, prog: str, argv: Sequence[str], *, is_demo_script: bool = False) -> int:
    """Run the command ``name`` under the name ``prog`` and return its exit status.

    The demo scripts set ``is_demo_script``, and so also accept the former names of flags.
    """
    # Let torch use large pages. Otherwise page faults take most of the time of receiving and adding 100 MB.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    set_up_streams()
    signals.watch_interrupt()
    try:
        module = _import_command(name)
        flags = build_parser(name, prog, is_demo_script=is_demo_script)
        arguments = flags.parse_args(argv)
        from fedws.cli.console import run_guarded

        verbose = getattr(arguments, "verbose", False)
        return run_guarded(
            prog,
            lambda: module.main(arguments),
            verbose=verbose,
            edit_message=flags.flag_translator.restore_given_names,
        )
    except KeyboardInterrupt:
        print(f"{prog}: stopped", file=sys.stderr)
        return 130


def build_parser(name: str, prog: str, *, is_demo_script: bool = False) -> Parser:
    """Return the parser of the command ``name``, which prints ``prog`` as its name."""
    options = {"is_evaluator": True} if name == "evaluator" else {"is_demo_script": True} if is_demo_script else {}
    flags: Parser = _import_command(name).build_parser(prog, **options)
    with contextlib.suppress(argparse.ArgumentError):  # some commands define the flag themselves and log more with it
        flags.add_argument("-v", "--verbose", action="store_true", help="print the traceback of an error")
    return flags


def _import_command(name: str) -> Any:
    return importlib.import_module(f"fedws.cli.{'worker' if name == 'evaluator' else name.replace('-', '_')}")


def _build_top_parser() -> Parser:
    import fedws

    listing = "\n".join(f"  {name:19}{text}" for name, text in COMMANDS.items())
    top = Parser(
        prog="fedws",
        usage="fedws COMMAND [flags]",
        description=f"Federated learning across named devices over websockets.\n\ncommands:\n{listing}",
        epilog="Run fedws COMMAND --help for the flags of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"fedws {fedws.__version__}")
    top.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    return top
