"""The patterns that plain English excludes, and the files that are held to them.

``python -m tests.helpers.prose [PATH ...]`` prints each place of the given files, or of all.
"""

import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

# Every pattern, with what to write instead.
PATTERNS = {
    r"\b(told|tells?|telling)\b": "return, log, send, name",
    r"\b(said|says?|saying)\b": "state, declare, contain, report",
    r"\b(asked|asks?|asking)\b": "request, require",
    r"\b(is|are|was|were|be|been) (?-i:no|none)\b(?! longer| more than| less than)": "negate the verb: 'is not a URL'",
    r"\b(is|are|was|were) one of\b": "name the set: 'must be a, b or c'",
    r"\b(nobody|somebody|anybody)\b": "no peer, a peer, any peer",
    r"\b(go|goes|going|went|gone) on\b": "continue",
    r"\b(whoever|whomever|who (is|are|was|were))\b": "a peer that, the node that",
    r"\b(wants?|wanted|wanting)\b": "require, expect, request",
    r"\b(believes?|believed|suffers?|suffered)\b": "accept, trust, be affected",
    r"\b(knows|bears|borne)\b": "name the data that the code holds",
    r"\b(likewise|anew|meanwhile|thereof|hence|whence)\b": "repeat the noun, again, at the same time",
    r"\bturn(s|ed|ing)? away\b": "reject",
}
# First words of docstrings that complete a name instead of being a sentence or a noun phrase.
FIRST_WORDS = {
    "What",
    "Whether",
    "Of",
    "Bytes",
    "Who",
    "Whose",
    "Why",
    "As",
    "Likewise",
    "How",
    "Those",
    "Where",
    "When",
    "Which",
}

_CODE = ("fedws", "evaluator", "examples", "benchmarks", "tools")
_PAGES = ("docs", "examples", ".github")
_SKIPPED = {"node_modules", "__pycache__"}


class Place(NamedTuple):
    """A place that breaks a rule."""

    path: Path
    line: int
    text: str
    advice: str

    def __str__(self) -> str:
        """Return the place as a line of a linter's report."""
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.text!r} -> {self.advice}"


def list_code() -> list[Path]:
    """Return the source files that are held to the rules; tests are not."""
    found = [
        *ROOT.glob("*.py"),
        *(path for room in _CODE for path in (ROOT / room).rglob("*") if path.suffix in {".py", ".mjs"}),
    ]
    return sorted(path for path in found if not _SKIPPED & set(path.parts))


def list_pages() -> list[Path]:
    """Return the pages that are held to the rules."""
    found = [*ROOT.glob("*.md"), *(path for folder in _PAGES for path in (ROOT / folder).rglob("*.md"))]
    return sorted(path for path in found if not _SKIPPED & set(path.parts))


def find_patterns(path: Path, text: str) -> Iterator[Place]:
    """Yield each place of ``text`` that has an excluded pattern, also over the end of a line.

    The text beside the bytes of a hexadecimal dump is skipped.
    """
    text = re.sub(r"^```hex\n.*?^```", lambda dump: "\n" * dump[0].count("\n"), text, flags=re.DOTALL | re.MULTILINE)
    for pattern, advice in PATTERNS.items():
        for match in re.finditer(pattern.replace(" ", r"\s+(?:#:?\s+)?"), text, re.IGNORECASE):
            yield Place(path, text.count("\n", 0, match.start()) + 1, " ".join(match.group().split()), advice)


def find_fragments(path: Path, text: str) -> Iterator[Place]:
    """Yield each docstring of the Python source ``text`` whose first word begins a fragment."""
    at_start = True
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.STRING and at_start:
            words = re.findall(r"\w+", token.string.lstrip("rRuU").strip("\"'"))
            if words and words[0] in FIRST_WORDS:
                yield Place(path, token.start[0], words[0], "a verb or a noun phrase first")
        if token.type not in {tokenize.COMMENT, tokenize.NL}:
            at_start = token.type in {tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}


def find_places(paths: Iterable[Path]) -> list[Place]:
    """Return every place of ``paths`` that breaks a rule."""
    places: list[Place] = []
    for path in paths:
        text = path.read_text(encoding="utf-8")
        places.extend(find_patterns(path, text))
        if path.suffix == ".py":
            places.extend(find_fragments(path, text))
    return places


def main(arguments: list[str]) -> int:
    """Print the places of the files and folders ``arguments``, or of all, and return 1 if there are any."""
    chosen = [Path(argument).resolve() for argument in arguments]
    everything = [*list_code(), *list_pages()]
    places = find_places(
        path for path in everything if not chosen or any(path.is_relative_to(start) for start in chosen)
    )
    for place in places:
        print(place)
    return int(bool(places))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
