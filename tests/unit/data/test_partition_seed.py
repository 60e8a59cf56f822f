"""``--seed`` goes to a partition that takes a seed, whatever kind of callable it is."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from fedws.core import registry
from fedws.data import partitioning
from tests.helpers.plugin_cleanup import forgotten as forgotten

pytestmark = pytest.mark.usefixtures("forgotten")


def seeded(targets: Any, shares: int, *, seed: int = 1) -> None: ...


def unseeded(targets: Any, shares: int) -> None: ...


class Seeded:
    def __init__(self, targets: Any, shares: int, *, seed: int = 1) -> None: ...


@pytest.mark.parametrize("piece", [seeded, Seeded, partial(seeded), lambda targets, shares, *, seed=1: None])
def test_the_seed_is_added(piece: Callable[..., Any]) -> None:
    registry.register("partition", "mine")(piece)
    assert partitioning.with_seed("mine", 7) == "mine,seed=7"
    assert partitioning.with_seed("mine:seed=3", 7) == "mine:seed=3"


def test_it_is_not_where_none_is_taken() -> None:
    registry.register("partition", "mine")(unseeded)
    assert partitioning.with_seed("mine", 7) == "mine"
