"""The command line's common ground: one line for every mistake, ``-`` and ``_`` equal in every flag."""

import argparse
import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from fedws.cli.security_flags import add_security_flags
from fedws.cli.store_flags import add_store_flags
from fedws.core.errors import UsageError

if TYPE_CHECKING:
    from fedws.core.plan import Plan


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, and name the flag that was probably meant."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("allow_abbrev", False)
        settings.setdefault("epilog", "'-' and '_' are the same in every flag.")
        super().__init__(**settings)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As the base class, after writing every flag with ``-``."""
        return super().parse_known_args(
            [_with_dashes(arg) for arg in (sys.argv[1:] if args is None else args)], namespace
        )

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """As the base class; an unknown flag is answered with the nearest."""
        found, extra = self.parse_known_args(args, namespace)
        if extra:
            near = difflib.get_close_matches(extra[0].partition("=")[0], self._option_string_actions, n=1)
            self.error(f"there is no {extra[0]} here" + (f"; did you mean {near[0]}?" if near else ""))
        return found

    def error(self, message: str) -> NoReturn:
        """One line on standard error, exit status 2."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _with_dashes(arg: str) -> str:
    if not arg.startswith("--"):
        return arg
    flag, equals, value = arg.partition("=")
    return flag.replace("_", "-") + equals + value


def add_local_flags(parser: argparse.ArgumentParser) -> None:
    """The flags for what a command takes from this machine."""
    add = parser.add_argument
    add("--data-dir", metavar="D", help="where data sets are (default: $FEDWS_DATA, or the user's cache)")
    add("--plugin", metavar="FILE.py", action="append", help="a file of yours that registers pieces")


def add_node_flags(parser: argparse.ArgumentParser, *, threads_help: str) -> None:
    """The flags that worker and coordinator share."""
    parser.add_argument("--dataset", metavar="NAME", help="mnist (default), digits, fashion_mnist, cifar10 or your own")
    add_local_flags(parser)
    parser.add_argument("--threads", metavar="N", type=int, help=threads_help)
    parser.add_argument(
        "--silence", metavar="S", type=float, help="seconds without a sign of life after which a node is lost (60)"
    )
    parser.add_argument("--heartbeat", metavar="S", type=float, help="seconds between pings (a third of --silence)")
    parser.add_argument("--max-message", metavar="BYTES", type=int, help="largest message taken (1073741824)")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="log tracebacks of errors, and what the websocket library reports"
    )
    add_security_flags(parser)
    add_store_flags(parser)


def name_flags_in_errors(build_plan: Callable[[], "Plan"], flags: Mapping[str, Any]) -> "Plan":
    """A plan, where a setting that is wrong and was given as a flag is named as the flag. Raises UsageError."""
    try:
        return build_plan()
    except UsageError as error:
        text = str(error)
        name = text.partition(":")[0].partition(".")[0]
        raise UsageError(f"--{name.replace('_', '-')}{text[len(name) :]}" if name in flags else text) from None
