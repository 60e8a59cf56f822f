"""Commands in the code blocks of pages, and the parsers that read them."""

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from fedws.cli.main import COMMANDS, build_parser
from fedws.cli.run import collect_settings
from fedws.cli.security_flags import complete_url
from fedws.core.plan import build_plan
from fedws.security.credentials import Credentials
from tests.helpers.support import REPOSITORY

FENCED = re.compile(r"^[ ]*```(?P<language>[^\n`]*)\n(?P<code>.*?)^[ ]*```", re.DOTALL | re.MULTILINE)
"""A code block of any language, so that its last line never counts as the start of a block."""
FLAG = re.compile(r"--[a-z][a-z-]*")
PAGES = sorted(
    [
        REPOSITORY / "README.md",
        REPOSITORY / "CONTRIBUTING.md",
        *(REPOSITORY / "docs").rglob("*.md"),
        *(REPOSITORY / "examples").glob("*/*.md"),
    ]
)
SCRIPTS = {"run_websocket_server.py": "worker", "run_websocket_client.py": "run"}


def parse_command(command: str, *words: str, is_demo_script: bool = False) -> argparse.Namespace:
    """Return what the command makes of its words; of a run, a plan is built, too. End the test if they are wrong."""
    assert command in COMMANDS
    found = build_parser(command, f"fedws {command}", is_demo_script=is_demo_script).parse_args(words)
    if command == "run" and "resume" not in found and "plan" not in found:
        if "listen" in found:
            assert found.expect_workers, "no worker is expected to join"
            found.listen = complete_url(found.listen, Credentials(None))
        build_plan(collect_settings(vars(found)))
    return found


def list_lines(text: str) -> Iterator[list[str]]:
    """Yield the words of each line in the code blocks of a page, where a line that ends in a backslash continues."""
    blocks = [block["code"] for block in FENCED.finditer(text) if block["language"] in ("", "sh", "console")]
    for block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            try:
                words = shlex.split(line.removeprefix("$ "), comments=True)
            except ValueError:  # a line of output, with an apostrophe
                continue
            if words:
                yield words


def list_commands(text: str) -> Iterator[tuple[str, list[str], bool]]:
    """Yield each command of fedws in a page: its name, its words, and whether it is a script of the demo."""
    for words in list_lines(text):
        for place, word in reversed(list(enumerate(words[:-1]))):
            name = Path(word).name
            if name in SCRIPTS:
                yield SCRIPTS[name], _drop_shell(words[place + 1 :]), True
                break
            if name == "fedws" and re.fullmatch(r"[a-z-]+", words[place + 1]) and not words[place + 1].startswith("-"):
                yield words[place + 1], _drop_shell(words[place + 2 :]), False
                break


def _drop_shell(words: list[str]) -> list[str]:
    """Return the words before a redirection, a pipe or an ampersand."""
    for place, word in enumerate(words):
        if word in {"|", "&", "&&", ">", "2>&1", "||"}:
            return words[:place]
    return words
