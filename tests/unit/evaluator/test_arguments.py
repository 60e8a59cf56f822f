"""The command line of the evaluator application."""

import math
import os
import subprocess
import sys

import pytest

import fedws
from evaluator import arguments
from evaluator.arguments import build_url, parse_arguments
from fedws.core.validation import NODE_ID_PATTERN
from tests.helpers.support import REPOSITORY


def rejected(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Return what is printed of arguments that are wrong."""
    with pytest.raises(SystemExit) as ended:
        parse_arguments(argv)
    assert ended.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("port", ["65536", "-1", "abc", "", "8780.0", "²", "9" * 5000])
def test_a_wrong_port_is_named(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"argument --port: '{port}' is not a valid port; use 0 to 65535" in rejected(capsys, f"--port={port}")


@pytest.mark.parametrize("name", ["", "a b", "-a", "a/b", "é", "a\n", "a" * 65])
def test_a_name_that_no_plan_accepts_is_rejected(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"argument --id: {name!r} is not a valid node id; use" in rejected(capsys, f"--id={name}")


def test_names_are_those_of_a_plan() -> None:
    assert f"^{arguments._NODE_ID.pattern}$" == NODE_ID_PATTERN
    assert parse_arguments(["--id", "a" * 64]).id == "a" * 64


def test_a_key_and_none_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert "not allowed with argument --key-file" in rejected(capsys, "--key-file", "key", "--insecure")


@pytest.mark.parametrize(
    ("host", "url"),
    [("0.0.0.0", "ws://0.0.0.0:65535"), ("::1", "ws://[::1]:65535"), ("[::1]", "ws://[::1]:65535")],
)
def test_an_address_becomes_a_url(host: str, url: str) -> None:
    assert build_url(parse_arguments(["--host", host, "--port", "65535"])) == url


def test_help_names_the_bound_and_does_not_wait_for_torch() -> None:
    code = (
        "import runpy, sys\nsys.argv = ['evaluator', '--help']\n"
        "try:\n    runpy.run_module('evaluator', run_name='__main__')\n"
        "except SystemExit:\n    assert 'torch' not in sys.modules"
    )
    environment = os.environ | {"COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
    )
    assert f"at most {math.isqrt(fedws.MAX_TABLE_CELLS)} classes" in done.stdout
