"""The owner's policy: what it refuses, with which reason, and that a refusal comes before any work."""

import math
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from fedws.core import registry
from fedws.core.errors import RetryLater, TaskError, UsageError
from fedws.core.registry import TaskTraits, task_traits
from fedws.core.task_settings import TrainSettings as Settings
from fedws.node.worker import DEFAULT_POLICY, Worker
from fedws.privacy.audit_chain import read_lines
from fedws.privacy.audit_entry import AuditEntry
from fedws.privacy.audit_log import AuditLog
from fedws.privacy.feature_release import FeatureRelease
from fedws.privacy.policy import Policy, load_policy
from fedws.protocol.messages import TaskFailure, TaskRequest, TaskResult
from fedws.protocol.run_claim import RunClaim
from fedws.training.task_context import TaskContext

UPDATE, METRICS = TaskTraits("update", settings=Settings), TaskTraits("metrics")


def order(task: str = "fedavg.fit", number: int = 1, **settings: Any) -> TaskRequest:
    return TaskRequest(
        request_id=f"{number}/alice", worker="alice", round=number, task=task, settings={"model": "mlp", **settings}
    )


def refusal(policy: Policy, asked: TaskRequest, held: int = 100, rounds: int = 0) -> str:
    """Why an order is refused."""
    with pytest.raises(TaskError) as error:
        policy.check_request(asked, held, left(rounds), METRICS if asked.task == "evaluate" else UPDATE)
    assert "\n" not in str(error.value)
    return str(error.value)


def left(rounds: int) -> dict[str, float]:
    """So many answers that left just now."""
    return {str(number): 0.0 for number in range(rounds)}


def report(held: int = 100, tensors: bool = False, **behind: Any) -> TaskResult:
    """A report of a node with so many samples; ``behind`` it, that is behind its numbers, may be others."""
    sent = {"w": torch.zeros(2)} if tensors else {}
    metrics = {"num_examples": behind["behind"]} if behind else {}
    return TaskResult(request_id="1/alice", worker="alice", round=1, num_examples=held, metrics=metrics, tensors=sent)


# --------------------------------------------------------------------------- the file


def written(folder: Path, text: str) -> Path:
    path = folder / "policy.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    return path


def test_every_key_can_be_written(tmp_path: Path) -> None:
    text = """
coordinators = ["coordinator", "lab-*"]
tasks = ["*.fit", "evaluate"]
models = ["mnist_cnn"]
max_epochs = 2
max_answers_per_day = 100
min_samples = 50
allow_updates = false
max_uploads = 3
encodings = ["floats", "bits"]
max_epsilon = 1
max_delta = 1e-6
labels = "clear"
max_label_epsilon = inf
"""
    assert load_policy(written(tmp_path, text)) == Policy(
        coordinators=("coordinator", "lab-*"),
        tasks=("*.fit", "evaluate"),
        models=("mnist_cnn",),
        max_epochs=2,
        max_answers_per_day=100,
        min_samples=50,
        allow_updates=False,
        max_uploads=3,
        encodings=("floats", "bits"),
        max_epsilon=1.0,
        max_delta=1e-6,
        labels="clear",
        max_label_epsilon=math.inf,
    )


def test_the_document_is_a_policy(tmp_path: Path) -> None:
    """The one in docs/security.md, which people copy."""
    from tests.helpers.support import REPOSITORY

    text = (REPOSITORY / "docs" / "security.md").read_text(encoding="utf-8")
    found = load_policy(written(tmp_path, text.partition("```toml\n")[2].partition("```")[0]))
    assert found.coordinators == ("coordinator",)
    assert set(found.model_fields_set) == set(Policy.model_fields), "all keys are in the document"


def test_an_empty_file_allows_what_no_file_does(tmp_path: Path) -> None:
    assert load_policy(written(tmp_path, "")) == DEFAULT_POLICY


BAD = {
    "unknown key": ("task = ['*']", "task: there is no such setting"),
    "wrong type": ("tasks = 3", "tasks: .*, not 3"),
    "wrong inner type": ("tasks = [1]", "tasks.0: .*, not 1"),
    "number as text": ("max_epochs = '2'", "max_epochs: .*, not '2'"),
    "no rounds": ("max_answers_per_day = 0", "max_answers_per_day: .*, not 0"),
    "less than none": ("min_samples = -1", "min_samples: .*, not -1"),
    "a number for yes": ("allow_updates = 1", "allow_updates: .*, not 1"),
    "half": ("max_epochs = 1.5", "max_epochs: .*, not 1.5"),
    "syntax": ("max_epochs = = 1", ".*line 1"),
    "no text": ("\udcff", ""),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_in_the_file_is_one_line(name: str, tmp_path: Path) -> None:
    """A policy that says something else than its owner means must not begin to hold."""
    text, pattern = BAD[name]
    path = written(tmp_path, text)
    with pytest.raises(UsageError, match=rf"^--policy {path}: {pattern}") as error:
        load_policy(path)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--policy \S+none: No such file or directory$"):
        load_policy(tmp_path / "none")


# --------------------------------------------------------------------------- before any work


def test_without_a_policy_whatever_is_registered_is_allowed() -> None:
    for asked in (order(), order("evaluate"), order("mine.fit", model="mine", epochs=10**9), order(model=5)):
        DEFAULT_POLICY.check_request(asked, 1, left(1000))
    DEFAULT_POLICY.check_result(report(tensors=True))
    assert DEFAULT_POLICY.allows_coordinator("") and DEFAULT_POLICY.allows_coordinator("anybody")


@pytest.mark.parametrize(
    ("patterns", "task", "allowed"),
    [
        (("*.fit",), "fedavg.fit", True),
        (("*.fit",), "evaluate", False),
        (("fedavg.fit",), "fedavg.fit", True),
        (("fedavg.fit",), "Fedavg.fit", False),
        (("fedavg.fit",), "fedavg.fit2", False),
        (("*.fit", "evaluate"), "evaluate", True),
        ((), "evaluate", False),
    ],
)
def test_tasks(patterns: tuple[str, ...], task: str, allowed: bool) -> None:
    policy = Policy(tasks=patterns)
    if allowed:
        policy.check_request(order(task), 1, left(0))
    else:
        assert refusal(policy, order(task)) == f"the policy here does not allow the task {task}"


def test_a_single_pattern_needs_no_list(tmp_path: Path) -> None:
    assert load_policy(written(tmp_path, 'tasks = "*.fit"')).tasks == ("*.fit",)


@pytest.mark.parametrize("model", ["cifar_cnn", "mlp2", " mlp2 ", "mlp2:hidden=3", "mlp2,hidden=3", "*", "MLP"])
def test_models_that_are_not_named_are_refused(model: str) -> None:
    assert refusal(Policy(models=("mlp",)), order(model=model)) == f"the policy here does not allow the model {model}"


@pytest.mark.parametrize("model", ["mlp", "mlp:64", "mlp:hidden=64", "mlp,hidden=64", " mlp "])
def test_a_model_is_known_by_its_name_whatever_its_options(model: str) -> None:
    Policy(models=("mlp",)).check_request(order(model=model), 1, left(0))


def test_a_name_of_any_length_makes_a_short_reason() -> None:
    assert len(refusal(Policy(tasks=()), order("t" * 10**6))) < 200
    assert len(refusal(Policy(models=("mlp",)), order(model="m" * 10**6))) < 200


@pytest.mark.parametrize("epochs", [3, 10**30, "1", None, 2.0, [1], float("nan")])
def test_more_passes_than_allowed_are_refused(epochs: Any) -> None:
    assert refusal(Policy(max_epochs=2), order(epochs=epochs)).startswith(
        "the policy here allows 2 epochs a request, not"
    )


def test_an_order_is_of_one_pass_unless_it_says_so() -> None:
    Policy(max_epochs=1).check_request(order(), 1, left(0))
    Policy(max_epochs=2).check_request(order(epochs=2), 1, left(0))


def test_a_model_is_allowed_by_its_name_and_an_order_must_name_one() -> None:
    with pytest.raises(ValidationError, match="has options; a model is allowed by its name"):
        Policy(models=("mlp:hidden=5",))
    policy = Policy(models=("mlp",))
    policy.check_request(order(model="mlp:hidden=5"), 1, left(0))
    assert "a request that names none" in refusal(policy, replace(order(), settings={}), 1)


def test_samples() -> None:
    policy = Policy(min_samples=50)
    policy.check_request(order(), 50, left(0), UPDATE)
    assert refusal(policy, order(), 49) == "the policy here requires 50 samples behind a number; there are 49"
    policy.check_result(report(50))
    policy.check_result(report(1000, behind=50))
    for few in (report(49), report(1000, behind=49), report(1000, behind="many"), report(1000, behind=None)):
        with pytest.raises(TaskError, match="requires 50 samples behind a number; there were "):
            policy.check_result(few)


def test_updates() -> None:
    """By the name of the task before it has cost anything, and in any case by what it would send."""
    policy = Policy(allow_updates=False)
    assert refusal(policy, order("fedavg.fit")) == "the policy here lets no model updates leave"
    policy.check_request(order("evaluate"), 1, {}, METRICS)
    policy.check_result(report())
    with pytest.raises(TaskError, match="lets no plain tensors leave"):
        policy.check_result(report(tensors=True))


def test_rounds() -> None:
    policy = Policy(max_answers_per_day=3)
    policy.check_request(order(), 1, left(2))
    used = "the answers a day that the policy here allows, 3, are used up; the next one is allowed in 24 h"
    assert refusal(policy, order(), 1, 3) == used


@pytest.mark.parametrize(
    ("ages", "hours", "told"),
    [
        ((1, 23, 5), 1, "1 h"),
        ((1, 20, 5, 6, 23.9), 18, "18 h"),  # three must be older than a day: 23.9, 20 and 6 hours
        ((0, 0, 0), 24, "24 h"),
        ((1, 23.995, 5), 0.005, "18 s"),
    ],
)
def test_a_refusal_states_when_the_next_round_is_allowed(ages: tuple[float, ...], hours: float, told: str) -> None:
    before = {str(number): 3600.0 * age for number, age in enumerate(ages)}
    with pytest.raises(RetryLater, match=f"; the next one is allowed in {told}$") as error:
        Policy(max_answers_per_day=3).check_request(order(), 1, before)
    assert error.value.retry_after == pytest.approx(3600 * hours)


@pytest.mark.parametrize(
    ("patterns", "who", "admitted"),
    [
        (("coordinator",), "coordinator", True),
        (("coordinator",), "coordinator2", False),
        (("coordinator",), "Coordinator", False),
        (("lab-*",), "lab-1", True),
        (("*",), "anybody", True),
        (("*",), "", False),
        (("",), "", False),
        ((), "coordinator", False),
    ],
)
def test_coordinators(patterns: tuple[str, ...], who: str, admitted: bool) -> None:
    """Who shows no certificate is nobody, whatever the patterns match."""
    assert Policy(coordinators=patterns).allows_coordinator(who) is admitted


# --------------------------------------------------------------------------- in a worker


class Points:
    """Four samples."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.zeros(2), 0


class Training:
    """A task that sends tensors; counts how often it was carried out."""

    def __init__(self) -> None:
        self.done = threading.Semaphore(0)
        self.times = 0

    def __call__(self, order: TaskRequest, workspace: TaskContext) -> TaskResult:
        self.times += 1
        return workspace.build_result(order, {"loss": 0.5}, {"w": torch.zeros(2)})


def worker(policy: Policy, task: Training, log: AuditLog | None = None) -> Worker:
    return Worker("alice", "points", Points(), tasks={"fedavg.fit": task}, policy=policy, audit_log=log)


@pytest.mark.parametrize(
    "policy",
    [Policy(tasks=("evaluate",)), Policy(models=("other",)), Policy(allow_updates=False), Policy(min_samples=5)],
)
def test_a_refusal_is_an_answer_with_its_reason_and_nothing_is_computed(policy: Policy) -> None:
    task = Training()
    answer = worker(policy, task).execute(order())
    assert isinstance(answer, TaskFailure)
    assert (answer.kind, answer.request_id, answer.round) == ("refused", "1/alice", 1)
    assert answer.reason.startswith("the policy here ")
    assert task.times == 0


def test_what_a_task_would_send_is_held_against_it_too() -> None:
    """A task that is registered to release metrics, and releases tensors all the same."""
    task = task_traits("metrics")(Training())
    for policy in (DEFAULT_POLICY, Policy(allow_updates=False)):
        node = Worker("alice", "points", Points(), tasks={"peek": task}, policy=policy)
        answer = node.execute(order("peek"))
        assert isinstance(answer, TaskFailure) and (answer.kind, answer.code) == ("refused", "permanent")
        assert answer.reason == "the task is registered to release metrics, and its result holds other tensors"
    assert task.times == 2


def test_a_task_that_releases_updates_is_refused_before_it_computes_whatever_it_is_called() -> None:
    """``fedsgd.gradient`` trained before it was refused, since its name does not end with ``.fit``."""
    reason = "the policy here lets no model updates leave"
    task = Training()
    mapped = Worker("alice", "points", Points(), tasks={"peek": task}, policy=Policy(allow_updates=False))
    assert mapped.execute(order("peek")).reason == reason and task.times == 0  # type: ignore[union-attr]
    node = Worker("alice", "points", Points(), policy=Policy(allow_updates=False))
    for name in registry.list_pieces("task"):
        if registry.get_task_traits(registry.find_piece("task", name)).releases == "update":
            answer = node.execute(order(name))
            assert isinstance(answer, TaskFailure) and answer.reason == reason


def test_every_task_that_ships_is_registered_with_what_it_releases() -> None:
    traits = {name: registry.find_piece("task", name).traits for name in registry.list_pieces("task") if "." in name}
    features = {"mistnet.extract", "mistnet.fine_tune", "mistnet.upload", "mistnet.acknowledge"}
    assert {name for name, its in traits.items() if its.releases == "features"} == features
    assert not {name for name, its in traits.items() if its.releases == "metrics"}
    assert {name for name, its in traits.items() if its.explicit} == {"mistnet.fine_tune"}
    assert all(issubclass(its.settings, Settings) for its in traits.values() if its.releases == "update")
    with pytest.raises(UsageError, match=r"^register\('task', 'odd.task'\): a task needs releases=: one of update, "):
        registry.register("task", "odd.task")


@pytest.mark.parametrize("numbers", [(1, 2, 3, 4), (1, 1, 1, 1)])
def test_a_days_rounds_are_counted_by_answers_whatever_the_coordinator_calls_them(
    numbers: tuple[int, ...], tmp_path: Path
) -> None:
    """It numbers the rounds and names the runs, so the same number again is another round."""
    task, path = Training(), tmp_path / "audit.jsonl"
    node = worker(Policy(max_answers_per_day=3), task, AuditLog(path))
    node.start_run(RunClaim("first"))
    kinds = [type(node.execute(order(number=number))).__name__ for number in numbers]
    assert kinds == ["TaskResult", "TaskResult", "TaskResult", "TaskFailure"]
    again = worker(Policy(max_answers_per_day=3), task, AuditLog(path))
    again.start_run(RunClaim("second"))
    refused = again.execute(order(number=9))
    assert isinstance(refused, TaskFailure) and "answers a day" in refused.reason, (
        "also after a new start, in another run"
    )
    assert task.times == 3
    assert [line["payload"] for line in read_lines(path) if line] == 3 * ["tensors"] + 2 * ["reason"]


def test_what_counted_yesterday_and_what_does_not_count_is_left_out(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    now = datetime.now(UTC)

    def entry(hours: float, data: str) -> AuditEntry:
        time = (now - timedelta(hours=hours)).isoformat(timespec="milliseconds")
        fixed: dict[str, Any] = dict.fromkeys(("node", "coordinator", "run", "request_id", "task", "model"), "x")
        counts: Any = "request" if data == "tensors" else ""
        return AuditEntry(**fixed, time=time, round=1, outcome="result", payload=data, num_bytes=1, counted_as=counts)

    for hours, data in ((30, "tensors"), (24.1, "tensors"), (23.9, "tensors"), (1, "metrics"), (0, "tensors")):
        log.append(entry(hours, data))
    assert len(log.answer_ages("x")) == 2
    assert len(log.answer_ages("y")) == 0, "another node, in the same log"
    log.append(entry(0, "tensors"))
    log.append(entry(0, "reason"))
    assert (len(log.answer_ages("x")), len(AuditLog(log.path).answer_ages("x"))) == (3, 3)
    assert len(log.answer_ages("x", timedelta(hours=40))) == 3, "what is older than a day is forgotten"
    assert len(AuditLog(log.path).answer_ages("x", timedelta(hours=24.5))) == 4


def test_lines_of_the_future_count_from_now_for_a_day_and_the_newest_line_gives_the_age(tmp_path: Path) -> None:
    """The clock was ahead when they were written, and is right again; by more than a day, they do not count."""
    log, now = AuditLog(tmp_path / "audit.jsonl"), datetime.now(UTC)
    fixed: dict[str, Any] = dict.fromkeys(("node", "coordinator", "run", "request_id", "task", "model"), "x")
    fixed |= {"round": 1, "outcome": "result", "num_bytes": 1}
    lines = ((5, ""), (-48, ""), (-0.01, ""), (3, "u"), (1, "u"), (-48, "u"), (0.5, "u"), (1, "v"), (-2, "v"))
    for hours, upload in lines:
        time = (now - timedelta(hours=hours)).isoformat(timespec="milliseconds")
        log.append(
            AuditEntry(**fixed, time=time, payload="", upload_id=upload, counted_as="upload" if upload else "request")
        )
    wanted = {"number 1": 5.0, "number 3": 0.0, "upload u": 0.5, "upload v": 0.0}
    assert {what: round(age / 3600, 3) for what, age in log.answer_ages("x").items()} == wanted


def test_rounds_cannot_be_limited_where_nothing_is_written_down() -> None:
    with pytest.raises(UsageError, match="max_answers_per_day of a policy is counted in the audit log"):
        worker(Policy(max_answers_per_day=3), Training())


# --------------------------------------------------------------------------- features


NOISY = FeatureRelease("bits", epsilon=2.0, label_epsilon=4.0, num_features=100)


@pytest.mark.parametrize("encoding", ["bits", "sue", "oue"])
def test_by_default_noisy_bits_with_randomised_labels_may_leave(encoding: str) -> None:
    DEFAULT_POLICY.check_features(replace(NOISY, encoding=encoding, epsilon=8.0))


@pytest.mark.parametrize(
    ("policy", "features", "reason"),
    [
        (DEFAULT_POLICY, replace(NOISY, encoding="floats", epsilon=None), "does not allow features encoded as floats"),
        (
            DEFAULT_POLICY,
            replace(NOISY, encoding="bits_without_noise", epsilon=None),
            "does not allow features encoded as bits_without_noise",
        ),
        (DEFAULT_POLICY, replace(NOISY, encoding="b" * 10**6), "does not allow features encoded as bbb"),
        (DEFAULT_POLICY, replace(NOISY, label_epsilon=None), "lets no clear labels leave"),
        (Policy(encodings=()), NOISY, "does not allow features encoded as bits"),
        (Policy(max_epsilon=1.0), NOISY, "allows epsilon up to 1, not 2"),
        (Policy(max_label_epsilon=1.0), NOISY, "allows label_epsilon up to 1, not 4"),
        (DEFAULT_POLICY, replace(NOISY, epsilon=700.0), "allows epsilon up to 8, not 700"),
        (DEFAULT_POLICY, replace(NOISY, label_epsilon=700.0), "allows label_epsilon up to 8, not 700"),
        (Policy(encodings=("*",)), replace(NOISY, delta=0.01), "allows delta up to 1e-05, not 1"),
        (Policy(min_samples=2), NOISY, "requires 2 samples behind a number; a record of features is of one sample"),
    ],
)
def test_features_that_the_owner_does_not_allow_are_refused(
    policy: Policy, features: FeatureRelease, reason: str
) -> None:
    with pytest.raises(TaskError, match=reason) as error:
        policy.check_features(features)
    assert len(str(error.value)) < 200


def test_a_policy_that_names_them_lets_floats_and_clear_labels_leave() -> None:
    Policy(encodings=("floats",), labels="clear").check_features(FeatureRelease("floats", None, None, 100))
    Policy(max_epsilon=2.0, max_label_epsilon=4.0).check_features(NOISY)


def test_what_a_record_spends_is_that_of_all_its_values_and_its_label() -> None:
    assert NOISY.record_epsilon == 204.0
    assert replace(NOISY, resent=True).record_epsilon == 0.0
    assert (
        replace(NOISY, epsilon=None).record_epsilon is None
        and replace(NOISY, label_epsilon=None).record_epsilon is None
    )


def extract(order: TaskRequest, workspace: TaskContext) -> TaskResult:
    workspace.declare_release(order, replace(NOISY, encoding=order.settings["encoding"]), lambda: None)
    assert order.settings["encoding"] == "bits", "what is not allowed is never computed"
    return workspace.build_result(order, {}, {"features": torch.zeros(4, 13, dtype=torch.uint8)})


def test_features_leave_where_updates_may_not_and_count_once_a_run(tmp_path: Path) -> None:
    policy, path = Policy(allow_updates=False, max_answers_per_day=2, max_uploads=9), tmp_path / "log"
    node = Worker(
        "alice",
        "points",
        Points(),
        tasks={"extract": task_traits("features")(extract)},
        policy=policy,
        audit_log=AuditLog(path),
    )

    def ask(run: str, number: int, encoding: str = "bits") -> str:
        node.start_run(RunClaim(run))
        answer = node.execute(replace(order("extract", number=number), settings={"encoding": encoding}))
        return answer.reason if isinstance(answer, TaskFailure) else "sent"

    assert [ask("first", number) for number in (1, 2, 3)] == 3 * ["sent"]
    assert (
        ask("first", 4, "floats")
        == "the policy here does not allow features encoded as floats; its key encodings: bits, sue, oue"
    )
    assert ask("second", 1) == "sent"
    assert "are used up; the next one is allowed in" in ask("third", 1)
    left = [(line["payload"], line["epsilon"]) for line in read_lines(path) if line]
    assert left == [*3 * [("features", 204.0)], ("reason", None), ("features", 204.0), ("reason", None)]
