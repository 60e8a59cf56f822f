"""The command ``fedws`` and the two scripts: picks the command, then imports what it needs."""

import argparse
import contextlib
import difflib
import importlib
import os
import sys
from collections.abc import Sequence

from fedws.cli import signals
from fedws.cli.former_names import FORMER_COMMANDS
from fedws.cli.parser import Parser

COMMANDS = {
    "worker": "serve one worker (--evaluator: the evaluator)",
    "evaluator": "serve the evaluator: fedws worker --evaluator",
    "run": "coordinate a run over workers that are being served",
    "demo-nodes": "start alice, bob, charlie and testing here; Ctrl+C ends all",
    "demo": "the four nodes and a run, and all ends",
    "simulate": "algorithms over a simulated fleet, in virtual time",
    "pretrain": "train a model on public data, for MistNet to begin with",
    "attack": "how much of the images MistNet's features give away",
    "communication-cost": "what models, raw data and features take, and what is sent",
    "plot": "draw a run's curves.png again",
    "key": "show the network key, or make a new one",
    "certs": "make certificates for wss://",
    "audit": "print or verify what left a node",
}


def console() -> None:
    """The console command."""
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
    """Run one command; gives its exit status."""
    try:
        top = _build_top_parser()
        name = top.parse_args(list(argv[:1])).command
        if name is None:
            top.print_help()
            return 2
        if name not in COMMANDS:
            near = difflib.get_close_matches(name, [*COMMANDS, *FORMER_COMMANDS], n=1)
            hint = f"; did you mean {FORMER_COMMANDS.get(near[0], near[0])}?" if near else ""
            top.error(f"there is no command {name!r}{hint}")
        return run_command(name, f"fedws {name}", argv[1:])
    except KeyboardInterrupt:
        return 130


def run_command(name: str, prog: str, argv: Sequence[str], *, is_demo_script: bool = False) -> int:
    """Run the command ``name`` under the name ``prog``; a script of the demo also accepts the flags' former names."""
    # Large pages for torch's memory: receiving and adding 100 MB otherwise spends most of its time on page faults.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    signals.watch_interrupt()
    try:
        evaluating = name == "evaluator"
        module = importlib.import_module(f"fedws.cli.{'worker' if evaluating else name.replace('-', '_')}")
        options = {"is_evaluator": True} if evaluating else {"is_demo_script": True} if is_demo_script else {}
        flags = module.build_parser(prog, **options)
        with contextlib.suppress(argparse.ArgumentError):  # some commands have it, and say more with it
            flags.add_argument("-v", "--verbose", action="store_true", help="print the traceback of an error")
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


def _build_top_parser() -> Parser:
    import fedws

    listing = "\n".join(f"  {name:19}{text}" for name, text in COMMANDS.items())
    top = Parser(
        prog="fedws",
        usage="fedws COMMAND [flags]",
        description=f"Federated learning across named devices over websockets.\n\ncommands:\n{listing}",
        epilog="fedws COMMAND --help tells a command's flags.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"fedws {fedws.__version__}")
    top.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    return top
