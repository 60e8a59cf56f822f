"""The plan of faults depends only on its seed, and has every kind, over all rounds."""

from collections import Counter

from tests.chaos.faults import COORDINATOR, EVALUATOR, KINDS, Fault, draw

WORKERS = ("alice", "bob", "charlie")


def drawn(seed: int = 1, rounds: int = 40, count: int = 60) -> list[Fault]:
    return draw(seed, rounds, WORKERS, count=count, silence=2.0, span=0.5)


def test_a_seed_says_everything() -> None:
    assert drawn() == drawn()
    assert drawn(1) != drawn(2)


def test_every_kind_is_drawn_and_every_node_is_hit() -> None:
    found = drawn()
    assert {fault.kind for fault in found} == set(KINDS)
    assert {fault.target for fault in found} == {*WORKERS, EVALUATOR, COORDINATOR}
    assert all((fault.target in WORKERS) == (fault.kind.whom == "worker") for fault in found)


def test_few_faults_are_of_different_kinds() -> None:
    assert max(Counter(fault.kind for fault in drawn(count=len(KINDS))).values()) == 1


def test_faults_come_in_order_within_the_run_and_one_in_its_last_round() -> None:
    found = drawn(rounds=7)
    places = [(fault.round, fault.after) for fault in found]
    assert places == sorted(places)
    assert {fault.round for fault in found} <= set(range(1, 8)) and found[-1].round == 7


def test_long_is_beyond_the_silence_and_short_within() -> None:
    for fault in drawn(count=300):
        if fault.kind.what in ("stop", "hold"):
            assert (fault.seconds > 2.0) == fault.kind.long, fault


def test_a_fault_says_what_it_is() -> None:
    assert {str(kind) for kind in KINDS} >= {"kill worker", "stop coordinator beyond silence", "rst link of evaluator"}
    assert "kill coordinator as it writes model.safetensors" in {str(kind) for kind in KINDS}
    assert all(str(fault).startswith(f"{fault.kind.what} {fault.target}") for fault in drawn())
