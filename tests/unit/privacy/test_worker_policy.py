"""A worker refuses what its policy does not allow before it computes."""

import pytest

from fedws.core import registry
from fedws.core.errors import UsageError
from fedws.core.registry import task_traits
from fedws.core.task_settings import TrainSettings as Settings
from fedws.node.worker import DEFAULT_POLICY, Worker
from fedws.privacy.policy import Policy
from fedws.protocol.messages import TaskFailure
from tests.helpers.policy_worker import Points, Training, order, worker


@pytest.mark.parametrize(
    "policy",
    [Policy(tasks=("evaluate",)), Policy(models=("other",)), Policy(allow_updates=False), Policy(min_samples=5)],
)
def test_a_refusal_is_an_answer_with_its_reason_and_nothing_is_computed(policy: Policy) -> None:
    task = Training()
    answer = worker(policy, task).execute(order())
    assert isinstance(answer, TaskFailure)
    assert (answer.kind, answer.request_id, answer.round) == ("refused", "1/alice", 1)
    assert answer.reason.startswith("policy: ")
    assert task.times == 0


def test_what_a_task_would_send_is_held_against_it_too() -> None:
    """A task that is registered to release metrics, and releases tensors all the same."""
    task = task_traits("metrics")(Training())
    for policy in (DEFAULT_POLICY, Policy(allow_updates=False)):
        node = Worker("alice", "points", Points(), tasks={"peek": task}, policy=policy)
        answer = node.execute(order("peek"))
        assert isinstance(answer, TaskFailure) and (answer.kind, answer.code) == ("refused", "permanent")
        assert answer.reason == "the task is registered to release metrics, but its result contains other tensors"
    assert task.times == 2


def test_a_task_that_releases_updates_is_refused_before_it_computes_whatever_it_is_called() -> None:
    """``fedsgd.gradient`` trained before it was refused, since its name does not end with ``.fit``."""
    reason = "policy: model updates are not allowed"
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
    with pytest.raises(UsageError, match=r"^register\('task', 'odd.task'\): a task requires releases=; choose from "):
        registry.register("task", "odd.task")
