"""The generated pages of the reference are those that the code gives now."""

import pytest

from fedws.cli.main import COMMANDS
from fedws.core.plan import Plan
from tools.reference.__main__ import FOLDER, PAGES


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_current(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == PAGES[name](), "run 'make reference'"


def test_every_command_and_every_setting_has_its_place() -> None:
    commands, settings = (PAGES[name]() for name in ("cli.md", "plan.md"))
    assert all(f"\n## fedws {name}\n" in commands for name in COMMANDS)
    assert all(f"\n| `{name}` | " in settings for name in Plan.model_fields)
