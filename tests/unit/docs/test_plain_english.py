"""Plain English: product code and pages have none of the patterns that readers had to decode."""

from pathlib import Path

import pytest

from tests.helpers.prose import (
    FIRST_WORDS,
    PATTERNS,
    ROOT,
    find_fragments,
    find_patterns,
    find_places,
    list_code,
    list_pages,
)

EXAMPLES = {
    r"\b(told|tells?|telling)\b": "the digest that was told",
    r"\b(said|says?|saying)\b": "whatever it says",
    r"\b(asked|asks?|asking)\b": "It asks once in five seconds",
    r"\b(is|are|was|were|be|been) (?-i:no|none)\b(?! longer| more than| less than)": "this is\n    no address",
    r"\b(is|are|was|were) one of\b": "it is one of three",
    r"\b(nobody|somebody|anybody)\b": "Nobody is served",
    r"\b(go|goes|going|went|gone) on\b": "the run goes\n# on",
    r"\b(whoever|whomever|who (is|are|was|were))\b": "who is late takes part later",
    r"\b(wants?|wanted|wanting)\b": "the policy wants at most 2",
    r"\b(believes?|believed|suffers?|suffered)\b": "it is believed",
    r"\b(knows|bears|borne)\b": "a worker knows its labels",
    r"\b(likewise|anew|meanwhile|thereof|hence|whence)\b": "Likewise.",
    r"\bturn(s|ed|ing)? away\b": "a caller is turned away",
}


@pytest.mark.parametrize("path", [*list_code(), *list_pages()], ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_in_plain_english(path: Path) -> None:
    assert not (places := find_places([path])), "\n".join(map(str, places))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_each_pattern_is_found(pattern: str) -> None:
    assert [place.text for place in find_patterns(ROOT / "x.md", EXAMPLES[pattern])] != []


def test_ordinary_sentences_pass() -> None:
    text = "The worker is no longer connected. A value is None if no file exists. Whole numbers: it is not a URL."
    assert not list(find_patterns(ROOT / "x.md", text))


def test_a_docstring_that_is_a_fragment_is_found() -> None:
    text = '"""Module."""\n\nclass A:\n    """A node."""\n\n    x: int\n    """What it holds."""\n    y = "What"\n'
    assert [(place.line, place.text) for place in find_fragments(ROOT / "x.py", text)] == [(7, "What")]
    assert {"What", "Of", "Whether", "Likewise"} <= FIRST_WORDS


def test_all_rooms_are_held() -> None:
    files = {path.relative_to(ROOT).parts[0] for path in list_code()}
    assert {"fedws", "evaluator", "examples", "benchmarks", "tools", "run_websocket_server.py"} <= files
    assert ROOT / "README.md" in list_pages() and len(list_code()) > 300
