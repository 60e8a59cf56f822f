"""Parser of all commands.

It reports every error in one line and treats ``-`` and ``_`` in flags as equal.
"""

import argparse
import difflib
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from fedws.cli.former_names import ALGORITHM_ALIAS, FlagTranslator, select_former_flags
from fedws.core.errors import UsageError

if TYPE_CHECKING:
    from fedws.core.plan import Plan


class HelpFormatter(argparse.HelpFormatter):
    """HelpFormatter that keeps the name of a flag on one line."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return textwrap.fill(
            " ".join(text.split()), width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
        )


class Parser(argparse.ArgumentParser):
    """ArgumentParser whose errors are one line and suggest the flag that was probably meant.

    With ``accept_former_names`` it also accepts the former names of flags. Its errors then use the name that the user
    gave.
    """

    def __init__(self, *, accept_former_names: bool = False, **settings: Any) -> None:
        settings.setdefault("allow_abbrev", False)
        settings.setdefault("formatter_class", HelpFormatter)
        super().__init__(**settings)
        self.flag_translator = FlagTranslator(accept_former_names=accept_former_names)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse like the base class, after translating every flag to its present name, spelt with ``-``."""
        given = sys.argv[1:] if args is None else args
        translated = self.flag_translator.translate(given, self._option_string_actions)
        return super().parse_known_args(translated, namespace)

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Parse like the base class, but suggest the nearest flag for an unknown one."""
        found, extra = self.parse_known_args(args, namespace)
        if extra:
            renamed = select_former_flags(self._option_string_actions)
            flag = extra[0].partition("=")[0]
            near = difflib.get_close_matches(flag, [*self._option_string_actions, *renamed], n=1)
            hint = f"; did you mean {renamed.get(near[0], near[0])!r}?" if near else ""
            self.error(f"unknown argument {extra[0]!r}{hint}")
        return found

    def format_help(self) -> str:
        """Return the help text, whose epilog lists the other accepted forms of flags."""
        accepted = self.flag_translator.accepted_names(self._option_string_actions)
        notes = ["'-' and '_' are the same in every flag."] if self.epilog is None else [self.epilog]
        if self.flag_translator.accept_former_names and accepted:
            notes.append("Also accepted: " + ", ".join(f"{old} ({new})" for old, new in accepted.items()) + ".")
        elif accepted:
            notes.append(f"{ALGORITHM_ALIAS} is the same as --algorithm.")
        before, self.epilog = self.epilog, " ".join(notes)
        try:
            return super().format_help()
        finally:
            self.epilog = before

    def error(self, message: str) -> NoReturn:
        """Print the error as one line on standard error, and exit with status 2."""
        self.exit(2, f"{self.prog}: {self.flag_translator.restore_given_names(message)} (see {self.prog} --help)\n")


def name_flags_in_errors(build_plan: Callable[[], "Plan"], flags: Mapping[str, Any]) -> "Plan":
    """Return the plan of ``build_plan``.

    Raise UsageError if a setting is wrong, and name the setting by its flag if it is in ``flags``.
    """
    try:
        return build_plan()
    except UsageError as error:
        text = str(error)
        name = text.partition(":")[0].partition(".")[0]
        raise UsageError(f"--{name.replace('_', '-')}{text[len(name) :]}" if name in flags else text) from None
