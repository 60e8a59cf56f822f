from collections.abc import Iterable

import pytest
import torch

from fedws.core.errors import TaskError
from fedws.core.tensors import Tensors
from fedws.node.worker import Worker
from fedws.protocol.messages import TaskFailure, TaskRequest, TaskResult
from fedws.protocol.run_claim import RunClaim
from fedws.training.client_state import MAX_STORED_ROUNDS, ClientState
from fedws.training.task_context import TaskContext


def order(round_number: int, base: int = 0, request_id: str = "") -> TaskRequest:
    return TaskRequest(
        request_id=request_id or f"{round_number}/alice", worker="alice", round=round_number, task="t", state_round=base
    )


def state(value: float) -> Tensors:
    return {"c": torch.tensor([float(value)])}


def kept(*orders: tuple[int, int]) -> ClientState:
    """What is there after these orders, each a round and its base; a round's state holds its number."""
    found = ClientState()
    found.start_run(RunClaim("run"))
    for round_number, base in orders:
        found.load_state(order(round_number, base))
        found.save_state(order(round_number, base), state(round_number))
    return found


def there(keepsake: ClientState, rounds: Iterable[int] = range(1, 20)) -> list[int]:
    """The rounds whose state an order of a much later round could start from."""
    found = []
    for round_number in rounds:
        try:
            recalled = keepsake.load_state(order(1000, round_number))
        except TaskError:
            continue
        assert recalled is not None and float(recalled["c"]) == round_number
        found.append(round_number)
    return found


# --------------------------------------------------------------------------- recalling


def test_a_first_order_starts_from_nothing() -> None:
    assert ClientState().load_state(order(1)) is None
    assert kept((1, 0), (2, 1)).load_state(order(3)) is None, "and any order that says so"


def test_a_state_is_that_of_the_round_that_the_order_names() -> None:
    keepsake = kept((1, 0), (2, 1))
    for base in (1, 2, 1):
        found = keepsake.load_state(order(3, base))
        assert found is not None and float(found["c"]) == base


@pytest.mark.parametrize("base", [3, -1, 4, 2**62])
def test_a_state_that_is_not_there_is_said_to_be_lost(base: int) -> None:
    with pytest.raises(TaskError) as lost:
        kept((1, 0)).load_state(order(4, base))
    assert str(lost.value) == f"alice has lost its state of round {base}: it was restarted or served another run"


def test_what_is_kept_is_a_copy_and_what_is_recalled_another() -> None:
    """A task may work in place, on what it kept and on what it recalled, and a second try starts as the first did."""
    keepsake = ClientState()
    weights = torch.ones(3, requires_grad=True)
    made = weights * 1
    keepsake.save_state(order(1), {"c": made})
    made.detach().zero_()
    for _ in range(2):
        found = keepsake.load_state(order(2, 1))
        assert found is not None and found["c"].tolist() == [1, 1, 1]
        assert not found["c"].requires_grad and found["c"].device.type == "cpu"
        found["c"].zero_()


# --------------------------------------------------------------------------- what stays


def test_three_rounds_stay() -> None:
    assert there(kept(*((round_number, round_number - 1) for round_number in range(1, 10)))) == [7, 8, 9]
    assert there(kept((2, 0), (5, 2), (9, 5), (11, 9))) == [5, 9, 11], "also of a worker that is not asked each round"
    assert MAX_STORED_ROUNDS == 3


def test_a_second_try_of_a_round_replaces_the_first() -> None:
    keepsake = kept((1, 0), (2, 1))
    again = order(3, 2, "3/alice/again")
    for value in (30.0, 31.0):
        found = keepsake.load_state(again)
        assert found is not None and float(found["c"]) == 2
        keepsake.save_state(again, state(value))
    found = keepsake.load_state(order(4, 3))
    assert found is not None and float(found["c"]) == 31
    assert there(keepsake, [1, 2]) == [1, 2], "a try takes no place of another round's"
    keepsake.load_state(again)
    found = keepsake.load_state(order(4, 3))
    assert found is not None and float(found["c"]) == 31, "a try that fails replaces nothing"


def test_the_state_that_orders_start_from_stays_however_many_do_not_count() -> None:
    assert there(kept((1, 0), (2, 1), *((round_number, 2) for round_number in range(3, 12)))) == [1, 2, 11]
    assert there(kept(*((round_number, 0) for round_number in range(1, 12)))) == [9, 10, 11], "none of them counted yet"


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
        keepsake = kept(*((round_number, round_number - 1) for round_number in range(1, 6)), *issued)
        found = keepsake.load_state(order(5, 4, "again"))
        assert found is not None and float(found["c"]) == 4
        keepsake.save_state(order(5, 4, "again"), state(50))
        found = keepsake.load_state(order(6, 5, "again"))
        assert found is not None and float(found["c"]) == 50, "and of what was there before nothing is left"


def test_a_coordinator_may_go_on_one_round_back_for_a_worker_that_is_not_asked_each_round() -> None:
    keepsake = kept((2, 0), (5, 2), (9, 5))
    found = keepsake.load_state(order(9, 5))
    assert found is not None and float(found["c"]) == 5
    assert there(kept((2, 0), (5, 2), (9, 5)), [2]) == [2]


def test_rounds_that_come_again_are_forgotten_at_the_first_of_them() -> None:
    keepsake = kept((4, 0), (5, 4), (6, 5))
    keepsake.load_state(order(5, 4))  # and then it fails
    with pytest.raises(TaskError, match="lost its state of round 6"):
        keepsake.load_state(order(7, 6))
    keepsake = kept((4, 0), (5, 4), (6, 5))
    keepsake.save_state(order(5), state(5))  # a task that does not look back
    with pytest.raises(TaskError, match="lost its state of round 6"):
        keepsake.load_state(order(7, 6))


def test_what_counted_before_the_kill_need_not_count_after_it() -> None:
    """Round 5 counted and does not come again; the worker's next order is one of round 6, from round 4."""
    keepsake = kept((3, 0), (4, 3), (5, 4), (6, 5), (6, 4))
    assert there(keepsake) == [4, 5, 6]
    keepsake.save_state(order(7, 6), state(7))
    assert there(keepsake) == [4, 6, 7]


# --------------------------------------------------------------------------- runs


def test_another_run_finds_nothing() -> None:
    keepsake = kept((1, 0), (2, 1))
    keepsake.start_run(RunClaim("run"))
    assert there(keepsake) == [1, 2], "the same one, on another link"
    keepsake.start_run(RunClaim("other"))
    assert there(keepsake) == []
    keepsake.start_run(RunClaim("run"))
    assert there(keepsake) == []


def test_a_run_without_an_id_is_another_each_time() -> None:
    keepsake = ClientState()
    keepsake.start_run(RunClaim(""))
    keepsake.save_state(order(1), state(1))
    keepsake.start_run(RunClaim(""))
    assert there(keepsake) == []


# --------------------------------------------------------------------------- in a worker


class Points:
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.zeros(2), 0


def count(order: TaskRequest, workspace: TaskContext) -> TaskResult:
    """Reports how many orders were answered before, along this chain of bases."""
    before = workspace.load_state(order) or {"n": torch.zeros(())}
    workspace.save_state(order, {"n": before["n"] + 1})
    return workspace.build_result(order, {"n": float(before["n"])})


def test_tasks_keep_and_recall_through_their_workspace() -> None:
    worker = Worker("alice", "points", Points(), tasks={"t": count})
    worker.start_run(RunClaim("run"))

    def answer(round_number: int, base: int) -> float | str:
        found = worker.execute(order(round_number, base))
        assert isinstance(found, TaskResult | TaskFailure)
        return found.reason if isinstance(found, TaskFailure) else float(found.metrics["n"])

    assert [answer(1, 0), answer(2, 1), answer(3, 1), answer(4, 3), answer(4, 3)] == [0, 1, 1, 2, 2]
    worker.start_run(RunClaim("run"))
    assert answer(5, 4) == 3
    worker.start_run(RunClaim("other"))
    assert answer(6, 5) == "alice has lost its state of round 5: it was restarted or served another run"
    assert answer(1, 0) == 0


def test_two_workers_share_nothing() -> None:
    one, other = (Worker(node, "points", Points(), tasks={"t": count}) for node in ("alice", "bob"))
    one.execute(order(1))
    found = other.execute(order(2, 1))
    assert isinstance(found, TaskFailure) and found.kind == "refused"
