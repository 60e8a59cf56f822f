"""The architecture page names files and definitions that exist."""

import re

import pytest

from tests.helpers.support import REPOSITORY

PAGE = (REPOSITORY / "docs" / "topics" / "architecture.md").read_text(encoding="utf-8")
FORMER_FILES = {"interfaces.py"}
"""Files that the page names because they are gone."""
FORMER_NAMES = {"ClientInfo", "ClientSampler", "PendingConnections", "RateLimitedWarnings", "FeatureRequest"}
"""Names that the page names because they are not used."""
OUTSIDE = {"SummaryWriter", "EventsWriter"}
"""Names of other libraries."""
SOURCES = {path: path.read_text(encoding="utf-8") for path in (REPOSITORY / "fedws").rglob("*.py")}
PATHS = [path.as_posix() for folder in ("fedws", "tests", "evaluator") for path in (REPOSITORY / folder).rglob("*.py")]


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([\w./-]+\.py)`", PAGE)) - FORMER_FILES))
def test_a_file_of_the_page_exists(name: str) -> None:
    scripts = [path.as_posix() for path in REPOSITORY.glob("*.py")]
    assert any(path.endswith(f"/{name}") for path in [*PATHS, *scripts])


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([A-Z][a-z]+[A-Z]\w+)`", PAGE)) - FORMER_NAMES - OUTSIDE))
def test_a_class_of_the_page_exists(name: str) -> None:
    assert any(re.search(rf"^(class {name}\b|{name} = )", text, re.MULTILINE) for text in SOURCES.values())


@pytest.mark.parametrize(("name", "file"), re.findall(r"`(\w+)`\*{0,2}\s\(`([\w/]+\.py)`", PAGE))
def test_a_definition_is_in_the_file_that_the_page_names(name: str, file: str) -> None:
    texts = [text for path, text in SOURCES.items() if path.as_posix().endswith(f"/{file}")]
    assert any(re.search(rf"^(class|def|async def) {name}\b|^{name} = ", text, re.MULTILINE) for text in texts)


def test_every_room_is_in_the_table() -> None:
    rooms = {path.name for path in (REPOSITORY / "fedws").iterdir() if (path / "__init__.py").is_file()}
    assert set(re.findall(r"^\| \d \| `(\w+)/` \|", PAGE, re.MULTILINE)) == rooms
