"""Commands, flags, targets of make and links of all pages exist."""

import re
from pathlib import Path

import pytest

from fedws.cli.main import COMMANDS, build_parser
from tests.helpers.page_commands import (
    FENCED,
    FLAG,
    PAGES,
    SCRIPTS,
    list_commands,
    list_lines,
    parse_command,
)
from tests.helpers.support import REPOSITORY

FORMER = {"--strategy", "--testing"}  # accepted beside --algorithm and --evaluator
OTHER = {"--require-hashes", "--no-deps", "--requirement", "--index-url", "--system", "--user", "--now", "--editable"}
LINKED = [page for page in PAGES if "](" in page.read_text(encoding="utf-8")]
WITH_COMMANDS = [page for page in PAGES if list(list_commands(page.read_text(encoding="utf-8")))]


def name_page(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name_page)
def test_the_commands_of_a_page_are_commands(page: Path) -> None:
    for command, words, is_script in list_commands(page.read_text(encoding="utf-8")):
        parse_command(command, *words, is_demo_script=is_script)


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_the_flags_that_a_page_names_are_flags(page: Path) -> None:
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    known = {flag for command in COMMANDS for flag in build_parser(command, command)._option_string_actions}
    known |= {
        flag
        for name in SCRIPTS.values()
        for flag in build_parser(name, name, is_demo_script=True)._option_string_actions
    }
    named = {
        flag
        for code in re.findall(r"`([^`\n]+)`", text)
        if code.startswith(("--", "fedws "))
        for flag in FLAG.findall(code)
    }
    assert named <= known | FORMER | OTHER, named - known


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name_page)
def test_the_targets_of_make_exist(page: Path) -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for words in list_lines(page.read_text(encoding="utf-8")):
        if words[0] == "make":
            for target in words[1:]:
                assert "=" in target or re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("page", LINKED, ids=name_page)
def test_the_links_of_a_page_lead_to_files(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_most_pages_have_commands() -> None:
    assert len(WITH_COMMANDS) >= 15
    found = [command for page in WITH_COMMANDS for command in list_commands(page.read_text(encoding="utf-8"))]
    assert len(found) >= 60
