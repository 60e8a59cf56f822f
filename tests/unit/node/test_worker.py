import threading
from typing import Any

import pytest
import torch

from fedws.core import registry
from fedws.core.errors import RejectedUpdate, TaskCancelled, TaskError, UsageError
from fedws.node.worker import Worker
from fedws.protocol.encoder import PROTOCOL_VERSION, encode_message
from fedws.protocol.messages import Hello, Refusal, TaskFailure, TaskRequest, TaskResult, Welcome
from fedws.protocol.run_claim import RunClaim
from fedws.training.task_context import TaskContext


class Points:
    def __init__(self, targets: Any = None) -> None:
        if targets is not None:
            self.targets = targets

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.zeros(2), 0


def order(task: str = "t", **settings: Any) -> TaskRequest:
    return TaskRequest(request_id="3/alice", worker="alice", round=3, task=task, settings=settings)


def good(order: TaskRequest, workspace: TaskContext) -> TaskResult:
    return TaskResult(
        request_id=order.request_id, worker=workspace.node, round=order.round, num_examples=len(workspace.data)
    )


def worker(task: Any = good, **options: Any) -> Worker:
    return Worker("alice", "points", Points(), tasks={"t": task}, **options)


# --------------------------------------------------------------------------- greeting


def hello(node: str = "alice") -> Hello:
    return Hello(run="r", node=node, protocol=PROTOCOL_VERSION)


def test_a_caller_who_means_this_node_is_welcome(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert worker().handle_hello(hello()) == Welcome(
        node="alice", role="worker", dataset="points", num_examples=4, labels=[], cuda=False
    )
    greeting = worker(evaluator=True).handle_hello(hello())
    assert isinstance(greeting, Welcome) and greeting.role == "evaluator"


def test_a_gpu_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    greeting = worker().handle_hello(hello())
    assert isinstance(greeting, Welcome) and greeting.cuda


def test_a_caller_who_means_another_node_is_refused() -> None:
    assert worker().handle_hello(hello("bob")) == Refusal(kind="node", reason="this is alice, not bob")


@pytest.mark.parametrize(
    ("targets", "labels"),
    [
        (None, []),
        (torch.tensor([3, 1, 1, 0]), [0, 1, 3]),
        ([7, 7, 2, 2], [2, 7]),
        (torch.tensor([0.5, 1.5, 0.5, 2.0]), []),
        (torch.tensor([1, 0, 0, 1], dtype=torch.uint8), [0, 1]),
    ],
)
def test_labels_are_those_of_the_data(targets: Any, labels: list[int]) -> None:
    greeting = Worker("alice", "points", Points(targets)).handle_hello(hello())
    assert isinstance(greeting, Welcome) and greeting.labels == labels
    assert encode_message(greeting)


def test_declared_labels_go_before_those_of_the_data() -> None:
    for declared in ([9, 4], [], (5,)):
        greeting = Worker("alice", "points", Points(torch.arange(4)), labels=declared).handle_hello(hello())
        assert isinstance(greeting, Welcome) and greeting.labels == sorted(declared)


# --------------------------------------------------------------------------- answering


def test_a_report_is_given_as_the_task_made_it() -> None:
    assert worker().execute(order()) == TaskResult(request_id="3/alice", worker="alice", round=3, num_examples=4)


@pytest.mark.parametrize(
    ("raised", "kind", "reason"),
    [
        (TaskError("not for me"), "refused", "not for me"),
        (TaskCancelled("told to stop"), "failed", "told to stop"),
        (ValueError("bad\n  value\n"), "failed", "ValueError (see the log of alice)"),
        (UsageError("odd"), "failed", "UsageError (see the log of alice)"),
        (RejectedUpdate("odd"), "failed", "RejectedUpdate (see the log of alice)"),
        (KeyError("x"), "failed", "KeyError (see the log of alice)"),
        (MemoryError(), "failed", "MemoryError (see the log of alice)"),
        (RecursionError("deep"), "failed", "RecursionError (see the log of alice)"),
        (StopIteration(), "failed", "StopIteration (see the log of alice)"),
        (AssertionError(), "failed", "AssertionError (see the log of alice)"),
        (torch.OutOfMemoryError("CUDA out of memory"), "failed", "OutOfMemoryError (see the log of alice)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_whatever_a_task_raises_becomes_a_failure(raised: Exception, kind: str, reason: str) -> None:
    def task(order: TaskRequest, workspace: TaskContext) -> TaskResult:
        raise raised

    node = worker(task)
    answer = node.execute(order())
    assert isinstance(answer, TaskFailure) and (answer.kind, answer.reason) == (kind, reason), "it may tell of the data"
    assert (answer.request_id, answer.worker, answer.round) == ("3/alice", "alice", 3)


@pytest.mark.parametrize("raised", [TaskError, ValueError, TaskCancelled])
def test_a_reason_is_one_line_that_can_be_sent(raised: type[Exception]) -> None:
    def task(order: TaskRequest, workspace: TaskContext) -> TaskResult:
        raise raised("a\nb\0" * 300_000)

    answer = worker(task).execute(order())
    assert isinstance(answer, TaskFailure) and len(answer.reason) < 1000 and "\n" not in answer.reason
    assert encode_message(answer)


def test_an_order_with_a_monstrous_name_can_be_answered() -> None:
    for name in ("x" * 400_000, "\0" * 400_000):
        for node in (worker(), Worker("alice", "points", Points())):
            answer = node.execute(order(name))
            assert isinstance(answer, TaskFailure) and answer.kind == "refused" and encode_message(answer)


def test_settings_of_monstrous_size_can_be_answered() -> None:
    node = Worker("alice", "points", Points())
    for settings in ({"model": "\0" * 100_000}, {"model": "m", "lr": "\0" * 100_000}, {"\0" * 100_000: 1}):
        answer = node.execute(order("fedavg.fit", **settings))
        assert isinstance(answer, TaskFailure) and answer.kind == "refused" and encode_message(answer)


@pytest.mark.parametrize("made", [None, {"loss": 1.0}, TaskFailure])
def test_a_task_that_makes_no_report_has_failed(made: Any) -> None:
    answer = worker(lambda order, workspace: made).execute(order())
    assert isinstance(answer, TaskFailure) and answer.kind == "failed" and "instead of TaskResult" in answer.reason


def test_the_node_lives_on_after_a_failure() -> None:
    calls = []

    def task(order: TaskRequest, workspace: TaskContext) -> TaskResult:
        calls.append(order)
        if len(calls) == 1:
            raise ValueError
        return good(order, workspace)

    node = worker(task)
    assert isinstance(node.execute(order()), TaskFailure) and isinstance(node.execute(order()), TaskResult)


def test_ctrl_c_is_no_failure() -> None:
    def task(order: TaskRequest, workspace: TaskContext) -> TaskResult:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        worker(task).execute(order())


# --------------------------------------------------------------------------- tasks


def test_a_node_with_a_table_does_what_is_in_it_and_nothing_else() -> None:
    answer = worker().execute(order("fedavg.fit"))
    assert isinstance(answer, TaskFailure) and answer.kind == "refused"
    assert answer.reason == "unknown task 'fedavg.fit'; choose from t"


def test_a_node_without_a_table_does_what_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._pieces, ("task", "fedavg.mine"), good)
    node = Worker("alice", "points", Points())
    assert isinstance(node.execute(order("fedavg.mine")), TaskResult)
    answer = node.execute(order("fedavg.fitt"))
    assert isinstance(answer, TaskFailure) and answer.kind == "refused"
    assert answer.reason.startswith("unknown task 'fedavg.fitt'; did you mean 'fedavg.fit'")


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "fedws.cli.main", "mlp", "", "__init__", "../x"])
def test_no_name_of_a_peer_selects_anything_but_a_task(name: str) -> None:
    answer = Worker("alice", "points", Points()).execute(order(name))
    assert isinstance(answer, TaskFailure) and answer.kind == "refused" and answer.reason.startswith("unknown task")


def test_tasks_work_on_the_nodes_own_data() -> None:
    seen: list[TaskContext] = []

    def task(order: TaskRequest, workspace: TaskContext) -> TaskResult:
        seen.append(workspace)
        return good(order, workspace)

    data = Points()
    Worker("alice", "points", data, tasks={"t": task}, threads=3).execute(order())
    assert (seen[0].node, seen[0].dataset, seen[0].data, seen[0].threads) == ("alice", "points", data, 3)


def test_what_tasks_keep_lasts_as_long_as_the_run() -> None:
    """Between orders, links and failures; what it is, test_keepsake tells."""

    def task(order: TaskRequest, workspace: TaskContext) -> TaskResult:
        before = workspace.load_state(order)
        workspace.save_state(order, {"n": torch.ones(1) if before is None else before["n"] + 1})
        if order.settings:
            raise ValueError("after it was kept")
        return workspace.build_result(order, {"n": 0.0 if before is None else float(before["n"])})

    def answer(round_number: int, base: int, **settings: Any) -> Any:
        found = node.execute(
            TaskRequest(
                request_id="x", worker="alice", round=round_number, task="t", state_round=base, settings=settings
            )
        )
        return found.metrics["n"] if isinstance(found, TaskResult) else (found.kind, found.reason)

    node = worker(task)
    for run in ("one", "other"):
        node.start_run(RunClaim(run))
        assert answer(1, 0) == 0
        node.start_run(RunClaim(run))
        assert answer(2, 1, fail=True) == ("failed", "the task failed on its data (see the log of alice)")
        assert answer(2, 1) == 1 and answer(4, 2) == 2
    node.start_run(RunClaim("one"))
    assert answer(5, 4) == ("refused", "alice has lost its state of round 4: it was restarted or served another run")


# --------------------------------------------------------------------------- stopping


def test_a_running_task_sees_that_it_is_told_to_stop() -> None:
    began, told = threading.Event(), threading.Event()

    def task(order: TaskRequest, workspace: TaskContext) -> TaskResult:
        began.set()
        assert told.wait(60)
        if workspace.stop.is_set():
            raise TaskCancelled("told to stop")
        return good(order, workspace)

    node, answers = worker(task), list[TaskResult | TaskFailure]()
    thread = threading.Thread(target=lambda: answers.append(node.execute(order())))
    thread.start()
    assert began.wait(60)
    node.stop()
    told.set()
    thread.join()
    assert isinstance(answers[0], TaskFailure) and answers[0].reason == "told to stop"
    node.resume()
    assert isinstance(node.execute(order()), TaskResult)
