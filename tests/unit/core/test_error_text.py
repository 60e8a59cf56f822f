"""An error names the last line of the user's own files, and what leaves a node does not."""

import json
import logging
from collections.abc import Callable
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch

from fedws.cli.console import run_guarded
from fedws.core import registry
from fedws.core.error_text import (
    PLUGIN_MODULE_PREFIX,
    describe_error,
    describe_with_location,
    find_last_location,
    find_user_location,
    is_user_file,
    summarize_error,
)
from fedws.core.errors import PieceFailed, RunFailed, UsageError
from fedws.core.plugins import load_plugin
from fedws.data.base import Dataset
from fedws.node.worker import Worker
from fedws.protocol.messages import TaskFailure, TaskRequest
from tests.helpers.plugin_cleanup import forgotten as forgotten

pytestmark = pytest.mark.usefixtures("forgotten")


def raised(work: Callable[[], object]) -> BaseException:
    """Give what ``work`` raises, with the traceback as it is below these tests, which are a user's files too."""
    with pytest.raises(Exception) as caught:
        work()
    trace = caught.value.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_name in ("raised", "<lambda>"):
        trace = trace.tb_next
    return caught.value.with_traceback(trace)


def from_file(path: str, code: str, **names: Any) -> Callable[[], object]:
    """Give what runs ``code`` as if it stood in a file."""
    return lambda: exec(compile(code, path, "exec"), {"__name__": "there", **names})


# --------------------------------------------------------------------------- which line


def test_it_is_the_last_line_of_the_users_not_the_very_last() -> None:
    error = raised(from_file("/home/me/mine.py", "import json\n\njson.loads('{')"))
    assert find_user_location(error) == "/home/me/mine.py, line 3"
    assert find_last_location(error).startswith(f"{json.__path__[0]}/decoder.py, line ")


@pytest.mark.parametrize(
    "file", ["/home/me/mine.py", "/tmp/ipykernel_12/34.py", "<stdin>", "<ipython-input-3-a1>", "/bin/mine"]
)
def test_files_cells_and_prompts_are_the_users(file: str) -> None:
    assert is_user_file(file)
    assert find_user_location(raised(from_file(file, "{}[0]"))) == f"{file}, line 1"


@pytest.mark.parametrize(
    "file",
    ["<string>", "<frozen importlib._bootstrap>", json.__file__, torch.__file__, registry.__file__, "uvloop/loop.pyx"],
)
def test_fedws_installed_packages_and_the_standard_library_are_not(file: str) -> None:
    assert not is_user_file(file)


def test_a_plugin_is_the_users_wherever_it_is() -> None:
    assert not is_user_file(f"{Path(torch.__file__).parent}/mine.py", "torch.mine")
    assert is_user_file(f"{Path(torch.__file__).parent}/mine.py", f"{PLUGIN_MODULE_PREFIX}mine")


def test_the_line_is_found_through_causes_and_ends_in_a_cycle() -> None:
    """As where a user's error has become one of fedws."""
    inner = raised(from_file("/home/me/mine.py", "\n{}['label']"))
    for middle in (UsageError("a"), RunFailed("b")):
        middle.__cause__, inner = inner, middle
    assert find_user_location(inner) == "/home/me/mine.py, line 2"
    assert describe_error(inner) == "b (/home/me/mine.py, line 2)"
    first, second = ValueError("x"), ValueError("y")
    first.__cause__, second.__cause__ = second, first
    assert find_user_location(first) == find_last_location(first) == ""


def test_what_was_suppressed_is_not_searched() -> None:
    outer = RuntimeError("other")
    outer.__context__ = raised(from_file("/home/me/mine.py", "{}['label']"))
    assert find_user_location(outer) == "/home/me/mine.py, line 1"
    outer.__suppress_context__ = True
    assert find_user_location(outer) == ""


def test_a_syntax_error_is_where_it_is_written(tmp_path: Path) -> None:
    error = raised(lambda: compile("x = 1\ndef f(:\n", str(tmp_path / "mine.py"), "exec"))
    assert find_user_location(error) == f"{tmp_path / 'mine.py'}, line 2"
    assert summarize_error(error) == "SyntaxError: invalid syntax"


class Broken(Exception):
    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (KeyError("label"), "KeyError: 'label'"),
        (ValueError("two\n   lines"), "ValueError: two lines"),
        (MemoryError(), "MemoryError"),
        (UsageError("one line"), "one line"),
        (ValueError("x" * 1000), f"ValueError: {'x' * 300}"),
        (Broken(), "Broken: cannot read the error text"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_summary_is_one_line(error: Exception, text: str) -> None:
    assert summarize_error(error) == text


# --------------------------------------------------------------------------- commands


def command(work: Callable[[], Any], capsys: pytest.CaptureFixture[str], *, verbose: bool = False) -> tuple[int, str]:
    """Give a command's exit status and standard error."""
    status = run_guarded("fedws run", work, verbose=verbose)
    out, err = capsys.readouterr()
    assert out == ""
    return status, err


def test_a_command_ends_with_one_line_that_names_the_users(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("import fedws\n{}['label']\n", encoding="utf-8")
    text = f"fedws run: --plugin {file}: KeyError: 'label' ({file}, line 2)\n"
    assert command(partial(load_plugin, file), capsys) == (2, text)
    status, told = command(partial(load_plugin, file), capsys, verbose=True)
    assert status == 2 and told.startswith("Traceback (most recent call last):\n") and told.endswith(f"\n{text}")


def test_so_it_does_for_any_other_error(capsys: pytest.CaptureFixture[str]) -> None:
    """As of a user's strategy in the middle of a run."""
    told = command(from_file("/home/me/mine.py", "{}['label']"), capsys)
    assert told == (1, "fedws run: KeyError: 'label' (/home/me/mine.py, line 1); add -v for the traceback\n")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RunFailed("round 1: nobody is left"), "fedws run: round 1: nobody is left\n"),
        (OSError(28, "No space left on device"), "fedws run: [Errno 28] No space left on device\n"),
    ],
    ids=["run", "disk"],
)
def test_an_error_that_no_line_of_the_user_led_to_is_its_text(
    error: Exception, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedws.core.error_text.is_user_file", lambda *_: False)  # these tests are a user's files too

    def work() -> int:
        raise error

    assert command(work, capsys) == (1, line)
    status, told = command(from_file("/home/me/mine.py", "{}['x']"), capsys)
    assert status == 1 and told.startswith("fedws run: unexpected error: KeyError: 'x' (")


# --------------------------------------------------------------------------- pieces


@pytest.mark.parametrize("kind", ["model", "loss", "optimizer", "algorithm", "aggregator", "dataset", "partition"])
@pytest.mark.parametrize("error", [KeyError("secret"), RuntimeError("secret"), ValueError("secret"), OSError("secret")])
def test_whatever_a_factory_raises_is_one_error_with_its_line(kind: str, error: Exception) -> None:
    class Piece:
        def __init__(self) -> None:
            raise error

    registry.register(kind, "broken.piece")(Piece)
    caught = raised(lambda: registry.build_piece(kind, "broken.piece"))
    assert isinstance(caught, PieceFailed)
    assert str(caught) == f"{kind} broken.piece: {summarize_error(error)}"
    line = Piece.__init__.__code__.co_firstlineno + 1
    assert find_user_location(caught) == f"{__file__}, line {line}"


def test_so_is_what_an_installed_package_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("theirs", "no_such_package:Net", "fedws.model")
    monkeypatch.setattr(registry, "_load_entry_points", lambda kind: {"theirs": point})
    with pytest.raises(UsageError, match="model theirs: cannot load no_such_package:Net: ModuleNotFoundError: "):
        registry.find_piece("model", "theirs")


# --------------------------------------------------------------------------- a node


class Data:
    targets = torch.arange(4)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        torch.zeros(3 if index else 4).reshape(2, 2)  # fails within torch, at this line, but for the first sample
        return torch.zeros(3), 0


class Model(torch.nn.Module):
    def __init__(self) -> None:
        raise LookupError("the patient Smith")


@pytest.mark.parametrize(
    ("model", "kind", "line"),
    [("mlp", "the task failed on its data", Data.__getitem__.__code__.co_firstlineno + 1),
     ("broken", "LookupError", Model.__init__.__code__.co_firstlineno + 1)],
)  # fmt: skip
@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
def test_a_node_logs_the_line_and_sends_the_type_alone(
    model: str, kind: str, line: int, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    registry.register("model", "broken")(Model)
    data: Dataset = Data()
    node = Worker("alice", "mnist", data)
    tensors = registry.build_piece("model", model).state_dict() if model == "mlp" else {}
    settings = {"model": model, "loss": "nll", "optimizer": "sgd", "lr": 0.1, "batch_size": 2, "max_local_batches": 1}
    order = TaskRequest(request_id="1", worker="alice", round=1, task="fedavg.fit", settings=settings, tensors=tensors)
    with caplog.at_level(level, "fedws"):
        answer = node.execute(order)
    assert isinstance(answer, TaskFailure)
    assert (answer.kind, answer.reason) == ("failed", f"{kind} (see the log of alice)")
    (record,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    assert record.getMessage().endswith(f" ({__file__}, line {line})")
    assert record.exc_info is None
    traces = [record for record in caplog.records if record.exc_info]
    assert len(traces) == (level == logging.DEBUG)
    assert describe_with_location(UsageError("x")) == "x ()", "an error that was never raised has no line"
