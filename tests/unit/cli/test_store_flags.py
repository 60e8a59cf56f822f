"""The flags of the store for large bodies."""

import argparse
from collections.abc import Callable

import pytest

from fedws.cli import run, worker
from fedws.cli.parser import Parser
from fedws.cli.store_flags import build_store_config
from fedws.core.errors import UsageError
from fedws.object_store.base import StoreConfig

URL = "s3://bucket/prefix"
PARSERS: dict[str, Callable[[], tuple[Parser, list[str]]]] = {
    "worker": lambda: (worker.build_parser("worker"), ["--id", "alice"]),
    "evaluator": lambda: (worker.build_parser("evaluator", is_evaluator=True), ["--id", "testing"]),
    "run": lambda: (run.build_parser("run"), []),
}


def parsed(command: str, flags: str) -> argparse.Namespace:
    parser, needed = PARSERS[command]()
    return parser.parse_args([*needed, *flags.split()])


@pytest.mark.parametrize("command", PARSERS)
@pytest.mark.parametrize(
    ("flags", "setting"),
    [
        ("", None),
        (f"--body-store {URL}", StoreConfig(URL, 1_000_000)),
        (f"--body-store {URL} --body-store-min-mb 2.5", StoreConfig(URL, 2_500_000)),
        (f"--body-store {URL} --body_store_min_mb 0", StoreConfig(URL, 0)),
    ],
)
def test_every_node_has_a_setting_of_its_own(command: str, flags: str, setting: StoreConfig | None) -> None:
    assert build_store_config(parsed(command, flags)) == setting


@pytest.mark.parametrize("command", PARSERS)
@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ("--body-store-min-mb 1", "--body-store-min-mb requires --body-store"),
        (
            f"--body-store {URL} --body-store-min-mb -0.5",
            "--body-store-min-mb: expected a size in MB of at least 0, got -0.5",
        ),
        (
            f"--body-store {URL} --body-store-min-mb inf",
            "--body-store-min-mb: expected a size in MB of at least 0, got inf",
        ),
        (
            f"--body-store {URL} --body-store-min-mb nan",
            "--body-store-min-mb: expected a size in MB of at least 0, got nan",
        ),
    ],
)
def test_what_makes_no_sense_is_told(command: str, flags: str, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        build_store_config(parsed(command, flags))
    assert str(caught.value) == text


def test_they_are_no_part_of_the_plan_and_are_given_again() -> None:
    given = vars(parsed("run", f"--body-store {URL} --body-store-min-mb 0 --insecure --id me --lr 0.5"))
    assert run.collect_settings(given) == {"lr": 0.5}
    assert run._format_repeated_flags(given) == f" --id me --insecure --body-store {URL} --body-store-min-mb 0.0"
    assert run._format_repeated_flags(vars(parsed("run", "--lr 0.5"))) == ""
