from collections.abc import Iterable

import pytest
import torch

from fedws.core.errors import TaskError
from fedws.core.tensors import Tensors
from fedws.node.worker import Worker
from fedws.protocol.messages import Failure, Order, Report
from fedws.protocol.run_claim import Claim
from fedws.training.client_state import STATES, Keepsake
from fedws.training.task_context import Workspace


def order(round: int, base: int = 0, id: str = "") -> Order:
    return Order(id=id or f"{round}/alice", worker="alice", round=round, task="t", base=base)


def state(value: float) -> Tensors:
    return {"c": torch.tensor([float(value)])}


def kept(*orders: tuple[int, int]) -> Keepsake:
    """What is there after these orders, each a round and its base; a round's state holds its number."""
    found = Keepsake()
    found.begin(Claim("run"))
    for round, base in orders:
        found.recall(order(round, base))
        found.keep(order(round, base), state(round))
    return found


def there(keepsake: Keepsake, rounds: Iterable[int] = range(1, 20)) -> list[int]:
    """The rounds whose state an order of a much later round could start from."""
    found = []
    for round in rounds:
        try:
            recalled = keepsake.recall(order(1000, round))
        except TaskError:
            continue
        assert recalled is not None and float(recalled["c"]) == round
        found.append(round)
    return found


# --------------------------------------------------------------------------- recalling


def test_a_first_order_starts_from_nothing() -> None:
    assert Keepsake().recall(order(1)) is None
    assert kept((1, 0), (2, 1)).recall(order(3)) is None, "and any order that says so"


def test_a_state_is_that_of_the_round_that_the_order_names() -> None:
    keepsake = kept((1, 0), (2, 1))
    for base in (1, 2, 1):
        found = keepsake.recall(order(3, base))
        assert found is not None and float(found["c"]) == base


@pytest.mark.parametrize("base", [3, -1, 4, 2**62])
def test_a_state_that_is_not_there_is_said_to_be_lost(base: int) -> None:
    with pytest.raises(TaskError) as lost:
        kept((1, 0)).recall(order(4, base))
    assert str(lost.value) == f"alice has lost its state of round {base}; was it restarted?"


def test_what_is_kept_is_a_copy_and_what_is_recalled_another() -> None:
    """A task may work in place, on what it kept and on what it recalled, and a second try starts as the first did."""
    keepsake = Keepsake()
    weights = torch.ones(3, requires_grad=True)
    made = weights * 1
    keepsake.keep(order(1), {"c": made})
    made.detach().zero_()
    for _ in range(2):
        found = keepsake.recall(order(2, 1))
        assert found is not None and found["c"].tolist() == [1, 1, 1]
        assert not found["c"].requires_grad and found["c"].device.type == "cpu"
        found["c"].zero_()


# --------------------------------------------------------------------------- what stays


def test_three_rounds_stay() -> None:
    assert there(kept(*((round, round - 1) for round in range(1, 10)))) == [7, 8, 9]
    assert there(kept((2, 0), (5, 2), (9, 5), (11, 9))) == [5, 9, 11], "also of a worker that is not asked each round"
    assert STATES == 3


def test_a_second_try_of_a_round_replaces_the_first() -> None:
    keepsake = kept((1, 0), (2, 1))
    again = order(3, 2, "3/alice/again")
    for value in (30.0, 31.0):
        found = keepsake.recall(again)
        assert found is not None and float(found["c"]) == 2
        keepsake.keep(again, state(value))
    found = keepsake.recall(order(4, 3))
    assert found is not None and float(found["c"]) == 31
    assert there(keepsake, [1, 2]) == [1, 2], "a try takes no place of another round's"
    keepsake.recall(again)
    found = keepsake.recall(order(4, 3))
    assert found is not None and float(found["c"]) == 31, "a try that fails replaces nothing"


def test_the_state_that_orders_start_from_stays_however_many_do_not_count() -> None:
    assert there(kept((1, 0), (2, 1), *((round, 2) for round in range(3, 12)))) == [1, 2, 11]
    assert there(kept(*((round, 0) for round in range(1, 12)))) == [9, 10, 11], "none of them counted yet"


def test_one_before_is_the_one_that_counted() -> None:
    """The answers to 3, 4 and 5 came too late. Whoever goes on from before round 6 starts from round 2."""
    keepsake = kept((1, 0), (2, 1), (3, 2), (4, 2), (5, 2), (6, 2), (7, 6))
    assert there(keepsake) == [2, 6, 7]


def test_an_answer_may_be_counted_late() -> None:
    keepsake = kept((1, 0), (2, 1), (3, 1))
    assert there(keepsake) == [1, 2, 3], "any of them may be the next one's base"


# --------------------------------------------------------------------------- after a coordinator was killed


def test_a_coordinator_may_go_on_one_round_back() -> None:
    """It had issued round 6, and its checkpoint of round 5 was not complete: it asks for round 5 again."""
    for issued in ([], [(6, 5)]):
        keepsake = kept(*((round, round - 1) for round in range(1, 6)), *issued)
        found = keepsake.recall(order(5, 4, "again"))
        assert found is not None and float(found["c"]) == 4
        keepsake.keep(order(5, 4, "again"), state(50))
        found = keepsake.recall(order(6, 5, "again"))
        assert found is not None and float(found["c"]) == 50, "and of what was there before nothing is left"


def test_a_coordinator_may_go_on_one_round_back_for_a_worker_that_is_not_asked_each_round() -> None:
    keepsake = kept((2, 0), (5, 2), (9, 5))
    found = keepsake.recall(order(9, 5))
    assert found is not None and float(found["c"]) == 5
    assert there(kept((2, 0), (5, 2), (9, 5)), [2]) == [2]


def test_rounds_that_come_again_are_forgotten_at_the_first_of_them() -> None:
    keepsake = kept((4, 0), (5, 4), (6, 5))
    keepsake.recall(order(5, 4))  # and then it fails
    with pytest.raises(TaskError, match="lost its state of round 6"):
        keepsake.recall(order(7, 6))
    keepsake = kept((4, 0), (5, 4), (6, 5))
    keepsake.keep(order(5), state(5))  # a task that does not look back
    with pytest.raises(TaskError, match="lost its state of round 6"):
        keepsake.recall(order(7, 6))


def test_what_counted_before_the_kill_need_not_count_after_it() -> None:
    """Round 5 counted and does not come again; the worker's next order is one of round 6, from round 4."""
    keepsake = kept((3, 0), (4, 3), (5, 4), (6, 5), (6, 4))
    assert there(keepsake) == [4, 5, 6]
    keepsake.keep(order(7, 6), state(7))
    assert there(keepsake) == [4, 6, 7]


# --------------------------------------------------------------------------- runs


def test_another_run_finds_nothing() -> None:
    keepsake = kept((1, 0), (2, 1))
    keepsake.begin(Claim("run"))
    assert there(keepsake) == [1, 2], "the same one, on another link"
    keepsake.begin(Claim("other"))
    assert there(keepsake) == []
    keepsake.begin(Claim("run"))
    assert there(keepsake) == []


def test_a_run_without_an_id_is_another_each_time() -> None:
    keepsake = Keepsake()
    keepsake.begin(Claim(""))
    keepsake.keep(order(1), state(1))
    keepsake.begin(Claim(""))
    assert there(keepsake) == []


# --------------------------------------------------------------------------- in a worker


class Points:
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.zeros(2), 0


def count(order: Order, workspace: Workspace) -> Report:
    """Reports how many orders were answered before, along this chain of bases."""
    before = workspace.recall(order) or {"n": torch.zeros(())}
    workspace.keep(order, {"n": before["n"] + 1})
    return workspace.report(order, {"n": float(before["n"])})


def test_tasks_keep_and_recall_through_their_workspace() -> None:
    worker = Worker("alice", "points", Points(), tasks={"t": count})
    worker.begin(Claim("run"))

    def answer(round: int, base: int) -> float | str:
        found = worker.answer(order(round, base))
        assert isinstance(found, Report | Failure)
        return found.reason if isinstance(found, Failure) else float(found.metrics["n"])

    assert [answer(1, 0), answer(2, 1), answer(3, 1), answer(4, 3), answer(4, 3)] == [0, 1, 1, 2, 2]
    worker.begin(Claim("run"))
    assert answer(5, 4) == 3
    worker.begin(Claim("other"))
    assert answer(6, 5) == "alice has lost its state of round 5; was it restarted?"
    assert answer(1, 0) == 0


def test_two_workers_share_nothing() -> None:
    one, other = (Worker(node, "points", Points(), tasks={"t": count}) for node in ("alice", "bob"))
    one.answer(order(1))
    found = other.answer(order(2, 1))
    assert isinstance(found, Failure) and found.kind == "refused"
