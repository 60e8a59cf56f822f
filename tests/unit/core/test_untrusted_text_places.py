"""Where the text of others becomes a part of a line: only through what makes it printable and short.

The sources are read, not run. A text of others is what an exception says that is not one of fedws, and what a field of
a message holds. A line that is put together from it must go, in the same expression, into
``untrusted_text.to_printable`` or ``untrusted_text.get_error_text``, or where every line is made printable: an error of
fedws, a log record, the lines of a run.
"""

import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedws.core import errors, untrusted_text
from fedws.protocol.messages import MESSAGE_TYPES, DatasetName, Identifier, Json, PrintableText
from tests.helpers.support import REPOSITORY

ERRORS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
CLEANER = "fedws/core/untrusted_text.py"
CLEANS = {"to_printable", "get_error_text", "to_line", "format_traceback"}
"""What makes a text printable."""
THROUGH = {
    "summarize_error", "describe_error", "describe_with_location", "describe_setting_error", "describe_schema_error",
    "describe_connect_error", "explain_rejection", "find_user_location", "find_last_location", "build_failure",
}  # fmt: skip
"""What gives a text that is printable; test_untrusted_text.py and the tests of their files show it."""
OUT = {"log", "emit", "add_log_line", "info", "warning", "error", "debug"}
"""Where a line leaves: complaints and log records, and the lines of a run."""
MESSAGE = {
    "hello", "join", "challenge", "proof", "welcome", "refusal", "refused", "request", "result", "failure", "answer",
    "message", "first", "event", "lost", "order", "report",
}  # fmt: skip
"""The names that messages and events have in the code."""
TEXTS = {"node", "run", "coordinator", "dataset", "reason", "request_id", "worker", "task", "settings", "metrics"}
"""Fields of messages that hold texts, or maps with texts."""
TEXTUAL: list[object] = [str, Identifier, PrintableText, DatasetName, Json]
"""The types of such fields."""
KNOWN = {
    (
        "fedws/scheduling/participants.py",
        "{failure.reason}",
    ): "a decoded reason is printable; it is said in a line of the run",
    ("fedws/scheduling/participants.py", "{event.reason}"): "the text of an error of fedws, said in a line of the run",
    ("fedws/scheduling/participants.py", "{event.worker}"): "a name from the plan",
    ("fedws/data/download.py", "str(error)"): "the last line of a download's error, for an error of fedws",
    ("fedws/data/datasets/cifar10.py", "{error.strerror}"): "a text of the system's, for an error of fedws",
    ("fedws/network/mqtt/endpoint.py", "str(error)"): "an exception of that module, with numbers only",
    ("fedws/training/client_state.py", "{request.worker}"): "the name of this node, for which the request was checked",
    ("fedws/core/plan.py", "{error}"): "one of the texts of fedws.core.addresses, which repeat nothing of an address",
}
"""The places that are right without, and why."""


def _types(node: ast.expr | None) -> set[str]:
    """Return the names of the exceptions that a handler catches."""
    if isinstance(node, ast.Tuple):
        return {name for each in node.elts for name in _types(each)}
    return {"BaseException"} if node is None else {ast.unparse(node).rpartition(".")[2]}


def _foreign(types: set[str]) -> bool:
    """Return whether an annotation is of an exception that is not of fedws."""
    return any(name.endswith(("Error", "Exception", "Exit")) for name in types) and not types <= ERRORS


def _uses(body: list[ast.stmt], names: set[str]) -> Iterator[ast.expr]:
    inner = (each for statement in body for each in ast.walk(statement))
    yield from (each for each in inner if isinstance(each, ast.Name) and each.id in names)


def _theirs(tree: ast.Module) -> Iterator[ast.expr]:
    """Yield each use of an exception that is not of fedws, and of a message's text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.name and not _types(node.type) <= ERRORS:
            yield from _uses(node.body, {node.name})
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = {each.arg for each in node.args.args if each.annotation and _foreign(_types(each.annotation))}
            yield from _uses(node.body, given)
        elif isinstance(node, ast.Attribute) and node.attr in TEXTS and getattr(node.value, "id", "") in MESSAGE:
            yield node


def _called(node: ast.AST) -> str:
    if not isinstance(node, ast.Call):
        return ""
    return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")


def unclean(source: str) -> list[str]:
    """Return the expressions of a source that make a line of foreign text, and do not make it printable.

    >>> unclean('try: f()\\nexcept OSError as error: print(f"no: {error}")')
    ['{error}']
    """
    tree = ast.parse(source)
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    found = []
    for use in _theirs(tree):
        formatted, clean = "", False
        node: ast.AST = use
        while not isinstance(parent := parents[node], ast.stmt):
            call = _called(parent)
            if call and node is not getattr(parent, "func", None):
                clean = clean or call in CLEANS | THROUGH | OUT | ERRORS or call == "type"
                if call in {"str", "repr", "format", "join", "print", "exit", "write"}:
                    formatted = formatted or ast.unparse(parent)
            if isinstance(parent, ast.Compare) or (isinstance(parent, ast.Attribute) and parent.attr == "startswith"):
                clean = True  # it is looked at, and goes nowhere
            percent = isinstance(parent, ast.BinOp) and isinstance(parent.op, ast.Mod)
            if isinstance(parent, ast.FormattedValue) or percent:
                formatted = formatted or ast.unparse(parent)
            node = parent
        if formatted and not clean:
            found.append(formatted)
    return found


def sources() -> list[Path]:
    folders = [REPOSITORY / "fedws", REPOSITORY / "evaluator"]
    return sorted([*(path for folder in folders for path in folder.rglob("*.py")), *REPOSITORY.glob("run_*.py")])


def test_foreign_text_is_formatted_nowhere_else() -> None:
    places = {
        (path.relative_to(REPOSITORY).as_posix(), text)
        for path in sources()
        if path != REPOSITORY / CLEANER
        for text in unclean(path.read_text(encoding="utf-8"))
    }
    new, gone = sorted(places - KNOWN.keys()), sorted(KNOWN.keys() - places)
    assert not new, f"make this text printable with fedws.core.untrusted_text, or tell why it is: {new}"
    assert not gone, f"KNOWN names what is not there: {gone}"


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("try: f()\nexcept OSError as error: x = f'{error}'", True),
        ("try: f()\nexcept OSError as error: x = str(error)", True),
        ("try: f()\nexcept (UsageError, ssl.SSLError) as e: x = 'no: %s' % e.reason", True),
        ("try: f()\nexcept OSError as error: print('no', error)", True),
        ("try: f()\nexcept OSError as error: sys.exit(f'no {error}')", True),
        ("def f(request): return ', '.join([request.task])", True),
        ("def f(welcome): x = f'holds {welcome.dataset}'", True),
        ("def f(welcome): x = f'holds {to_printable(welcome.dataset, 64)}'", False),
        ("try: f()\nexcept OSError as error: x = get_error_text(error)", False),
        ("try: f()\nexcept OSError as error: raise UsageError(f'no: {error}') from None", False),
        ("try: f()\nexcept OSError as error: log.error('no: %s', error)", False),
        ("try: f()\nexcept LinkError as error: x = str(error)", False),
        ("def why(error: ssl.SSLError) -> str: return str(error)", True),
        ("try: f()\nexcept OSError as error: x = str(error).startswith('no')", False),
        ("try: f()\nexcept OSError as error: x = type(error).__name__", False),
    ],
)
def test_such_a_place_is_found(source: str, wrong: bool) -> None:
    assert bool(unclean(source)) is wrong


def test_all_fields_with_texts_are_looked_at() -> None:
    texts = set()
    for kind in MESSAGE_TYPES.values():
        texts |= {field.name for field in dataclasses.fields(kind) if field.type in TEXTUAL}
    assert texts and texts <= TEXTS


def test_tracebacks_are_made_in_one_file() -> None:
    """A traceback ends with the text of its error."""
    makes = ("traceback.print_", "traceback.format_", ".print_exc", "log.exception", "_log.exception")
    found = [
        path.relative_to(REPOSITORY).as_posix()
        for path in sources()
        if any(make in path.read_text(encoding="utf-8") for make in makes)
    ]
    assert found == [CLEANER]


def test_every_logger_and_handler_is_clean() -> None:
    for path in sources():
        if path == REPOSITORY / CLEANER:
            continue
        source = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            if _called(node) == "getLogger" and isinstance(node, ast.Call) and node.args:
                name = ast.literal_eval(node.args[0])
                assert name in (*untrusted_text.LOGGER_NAMES, "asyncio"), (
                    f"{path.name}: {name} is not in LOGGER_NAMES of {CLEANER}"
                )
            if _called(node) in ("addHandler", "basicConfig"):
                assert re.search(r"addFilter\((fedws\.)?PRINTABLE_FILTER\)", source), (
                    f"{path.name}: its handler takes records as they are"
                )
