from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from fedws.core import registry
from fedws.core.errors import UsageError
from fedws.data import partitioning
from tests.helpers.plugin_cleanup import forgotten as forgotten


@pytest.mark.parametrize(("text", "share"), [("0/3", (0, 3)), ("2/3", (2, 3)), ("0/1", (0, 1)), (" 4/10 ", (4, 10))])
def test_parse(text: str, share: tuple[int, int]) -> None:
    assert partitioning.parse_share(text) == share


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not of the form K/N; use 0/3, for example, for the first of three"),
        ("1", "not of the form K/N"),
        ("1/", "not of the form K/N"),
        ("-1/3", "not of the form K/N"),
        ("a/b", "not of the form K/N"),
        ("1/2/3", "not of the form K/N"),
        ("3/3", "share 3 must be below 3; the first share is 0"),
        ("0/0", "share 0 must be below 0; the first share is 0"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text: str, problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        partitioning.parse_share(text)
    assert str(caught.value).startswith(f"--share {text}: {problem}") and "\n" not in str(caught.value)


def test_randomness_depends_on_the_seed_alone() -> None:
    assert (
        partitioning.build_generator(3).integers(1000, size=9).tolist()
        == partitioning.build_generator(3).integers(1000, size=9).tolist()
    )
    with pytest.raises(UsageError, match="must not be negative, got -1"):
        partitioning.build_generator(-1)


@pytest.mark.parametrize(("samples", "count", "each"), [(2, 3, 1), (5, 3, 2), (5, 0, 1), (5, -1, 1), (5, 1, 0)])
def test_check_refuses_what_would_leave_a_share_empty(samples: int, count: int, each: int) -> None:
    with pytest.raises(UsageError):
        partitioning.check_share_sizes(samples, count, each)
    partitioning.check_share_sizes(6, 3, 2)


def seeded(targets: Any, shares: int, *, seed: int = 1) -> None: ...


def unseeded(targets: Any, shares: int) -> None: ...


class Seeded:
    def __init__(self, targets: Any, shares: int, *, seed: int = 1) -> None: ...


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("piece", [seeded, Seeded, partial(seeded), lambda targets, shares, *, seed=1: None])
def test_the_seed_is_added(piece: Callable[..., Any]) -> None:
    registry.register("partition", "mine")(piece)
    assert partitioning.with_seed("mine", 7) == "mine,seed=7"
    assert partitioning.with_seed("mine:seed=3", 7) == "mine:seed=3"


@pytest.mark.usefixtures("forgotten")
def test_it_is_not_where_none_is_taken() -> None:
    registry.register("partition", "mine")(unseeded)
    assert partitioning.with_seed("mine", 7) == "mine"
