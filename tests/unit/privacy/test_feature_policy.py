"""Features and labels that a policy lets leave."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedws.core.errors import TaskError
from fedws.core.registry import task_traits
from fedws.node.worker import DEFAULT_POLICY, Worker
from fedws.privacy.audit_chain import read_lines
from fedws.privacy.audit_log import AuditLog
from fedws.privacy.feature_release import FeatureRelease
from fedws.privacy.policy import Policy
from fedws.protocol.messages import TaskFailure, TaskRequest, TaskResult
from fedws.protocol.run_claim import RunClaim
from fedws.training.task_context import TaskContext
from tests.helpers.policy_worker import Points, order

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
