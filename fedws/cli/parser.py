"""The command line's common ground: one line for every mistake, ``-`` and ``_`` equal in every flag."""

import argparse
import difflib
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from fedws.cli.renamed_flags import RENAMED_VALUES, select_renamed
from fedws.cli.security_flags import add_security_flags
from fedws.cli.store_flags import add_store_flags
from fedws.core.errors import UsageError

if TYPE_CHECKING:
    from fedws.core.plan import Plan


class HelpFormatter(argparse.HelpFormatter):
    """A HelpFormatter that keeps the name of a flag on one line."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return textwrap.fill(
            " ".join(text.split()), width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
        )


ALGORITHM_ALIAS = "--strategy"
"""Former name of ``--algorithm`` that every command still accepts."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, and name the flag that was probably meant.

    With ``accept_former_names`` it also takes the flags' former names, and its errors name a flag as it was given.
    """

    def __init__(self, *, accept_former_names: bool = False, **settings: Any) -> None:
        settings.setdefault("allow_abbrev", False)
        settings.setdefault("formatter_class", HelpFormatter)
        super().__init__(**settings)
        self.accept_former_names = accept_former_names
        self._former_names_given: dict[str, str] = {}

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As the base class, after writing every flag with ``-`` and by its present name."""
        return super().parse_known_args(self._translate(sys.argv[1:] if args is None else args), namespace)

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """As the base class; an unknown flag is answered with the nearest."""
        found, extra = self.parse_known_args(args, namespace)
        if extra:
            renamed = select_renamed(self._option_string_actions)
            flag = extra[0].partition("=")[0]
            near = difflib.get_close_matches(flag, [*self._option_string_actions, *renamed], n=1)
            hint = f"; did you mean {renamed.get(near[0], near[0])}?" if near else ""
            self.error(f"there is no {extra[0]} here{hint}")
        return found

    def name_flags_as_given(self, text: str) -> str:
        """Return an error's text with each flag under the name by which the user gave it."""
        for flag, given in self._former_names_given.items():
            text = re.sub(rf"(?<![\w-]){flag}(?![\w-])", given, text)
        return text

    def format_help(self) -> str:
        """As the base class; the epilog names the other forms in which flags are accepted."""
        accepted = self._accepted_names()
        notes = ["'-' and '_' are the same in every flag."] if self.epilog is None else [self.epilog]
        if self.accept_former_names and accepted:
            notes.append("Accepted as well: " + ", ".join(f"{old} ({new})" for old, new in accepted.items()) + ".")
        elif accepted:
            notes.append(f"{ALGORITHM_ALIAS} is the same as --algorithm.")
        before, self.epilog = self.epilog, " ".join(notes)
        try:
            return super().format_help()
        finally:
            self.epilog = before

    def error(self, message: str) -> NoReturn:
        """One line on standard error, exit status 2."""
        self.exit(2, f"{self.prog}: {self.name_flags_as_given(message)} (see {self.prog} --help)\n")

    def _accepted_names(self) -> dict[str, str]:
        """Return the other names that flags are accepted by, with their names."""
        renamed = select_renamed(self._option_string_actions)
        return {old: new for old, new in renamed.items() if self.accept_former_names or old == ALGORITHM_ALIAS}

    def _translate(self, args: Sequence[str]) -> list[str]:
        """Return the arguments with every flag written with ``-``, and former names replaced."""
        accepted, last_flag = self._accepted_names(), ""
        found: list[str] = []
        for arg in args:
            flag, equals, value = arg.partition("=") if arg.startswith("--") else ("", "", arg)
            if flag:
                given = flag.replace("_", "-")
                last_flag = accepted.get(given, given)
                if last_flag != given:
                    self._former_names_given[last_flag] = given
            if self.accept_former_names:
                value = RENAMED_VALUES.get((last_flag, value), value)
            found.append(f"{last_flag}{equals}{value}" if flag else value)
        return found


def add_local_flags(parser: argparse.ArgumentParser) -> None:
    """The flags for what a command takes from this machine."""
    add = parser.add_argument
    add("--data-dir", metavar="D", help="where data sets are (default: $FEDWS_DATA, or the user's cache)")
    add("--plugin", dest="plugins", metavar="FILE.py", action="append", help="a file of yours that registers pieces")


def add_node_flags(parser: argparse.ArgumentParser, *, threads_help: str) -> None:
    """The flags that worker and coordinator share."""
    parser.add_argument("--dataset", metavar="NAME", help="mnist (default), digits, fashion_mnist, cifar10 or your own")
    add_local_flags(parser)
    parser.add_argument("--threads", metavar="N", type=int, help=threads_help)
    parser.add_argument(
        "--peer-timeout", metavar="S", type=float, help="seconds without a message after which a node is lost (60)"
    )
    parser.add_argument(
        "--ping-interval", metavar="S", type=float, help="seconds between pings (a third of --peer-timeout)"
    )
    parser.add_argument("--max-message-bytes", metavar="N", type=int, help="largest message accepted (1073741824)")
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
