"""Seeds of requests, of the random generators and of models."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedws.core.errors import UnknownName
from fedws.core.seeds import request_seed, seed_generators
from fedws.training.model_building import build_model
from tests.helpers.point_training import same


@pytest.mark.parametrize(
    ("given", "wanted"),
    [((1, "alice", 1), 0xF942780923CED4C9), ((42, "bob", 17), 0x804A19CEE9BF191D)],
)
def test_the_seed_of_an_order_is_the_one_that_sha256sum_gives(given: tuple[int, str, int], wanted: int) -> None:
    """``printf 1/alice/1 | sha256sum | cut -c1-16``, read as a number."""
    assert request_seed(*given) == wanted


def test_seeds_differ_by_run_worker_and_round() -> None:
    seeds = {
        request_seed(run, worker, round_number) for run in (1, 2) for worker in ("a", "b") for round_number in (1, 2)
    }
    assert len(seeds) == 8 and all(0 <= seed < 2**64 for seed in seeds)


def test_seeding_gives_the_global_generator_back_as_it_was() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    with seed_generators(1):
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(RuntimeError), seed_generators(1):
        torch.rand(3)
        raise RuntimeError
    assert torch.equal(torch.get_rng_state(), before)


@given(st.integers(0, 2**64 - 1))
@settings(max_examples=20, deadline=None)
def test_any_seed_of_64_bits_decides_both_generators(seed: int) -> None:
    with seed_generators(seed) as generator:
        one = torch.rand(3), torch.rand(3, generator=generator)
    torch.manual_seed(seed)
    assert torch.equal(torch.rand(3), one[0])
    with seed_generators(seed) as generator:
        torch.rand(5)  # drawing from one does not move the other
        assert torch.equal(torch.rand(3, generator=generator), one[1])


def test_seeded_blocks_of_two_threads_take_turns() -> None:
    begun, done = threading.Event(), threading.Event()
    wanted, found = torch.Generator().manual_seed(2), []

    def other() -> None:
        begun.set()
        with seed_generators(2):
            found.append(torch.rand(3))
        done.set()

    with seed_generators(1):
        thread = threading.Thread(target=other)
        thread.start()
        assert begun.wait(60)
        assert not done.wait(0.05)
        one = torch.rand(3)
    thread.join()
    assert torch.equal(one, torch.rand(3, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(found[0], torch.rand(3, generator=wanted))


def test_a_model_is_drawn_from_its_seed_alone() -> None:
    torch.manual_seed(1)
    one = build_model("linear:inputs=2,outputs=2", 5)
    torch.manual_seed(2)
    assert same(one, build_model("linear:inputs=2,outputs=2", 5))
    assert not same(one, build_model("linear:inputs=2,outputs=2", 6))
    with pytest.raises(UnknownName):
        build_model("no_such_model", 1)
