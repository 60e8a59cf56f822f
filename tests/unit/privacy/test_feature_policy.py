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
        (
            DEFAULT_POLICY,
            replace(NOISY, encoding="floats", epsilon=None),
            "features encoded as 'floats' are not allowed",
        ),
        (
            DEFAULT_POLICY,
            replace(NOISY, encoding="bits_without_noise", epsilon=None),
            "features encoded as 'bits_without_noise' are not allowed",
        ),
        (DEFAULT_POLICY, replace(NOISY, encoding="b" * 10**6), "features encoded as 'bbb"),
        (DEFAULT_POLICY, replace(NOISY, label_epsilon=None), "clear labels are not allowed"),
        (Policy(encodings=()), NOISY, "features encoded as 'bits' are not allowed"),
        (Policy(max_epsilon=1.0), NOISY, "epsilon 2 requested, at most 1 allowed"),
        (Policy(max_label_epsilon=1.0), NOISY, "label_epsilon 4 requested, at most 1 allowed"),
        (DEFAULT_POLICY, replace(NOISY, epsilon=700.0), "policy: epsilon 700 requested, at most 8 allowed"),
        (DEFAULT_POLICY, replace(NOISY, label_epsilon=700.0), "label_epsilon 700 requested, at most 8 allowed"),
        (Policy(encodings=("*",)), replace(NOISY, delta=0.01), "delta 1 requested, at most 1e-05 allowed"),
        (Policy(min_samples=2), NOISY, "requires at least 2 samples, a record of features has one"),
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
        == "policy: features encoded as 'floats' are not allowed; encodings of the policy: bits, sue, oue"
    )
    assert ask("second", 1) == "sent"
    assert "is reached; the next one is allowed in" in ask("third", 1)
    left = [(line["payload"], line["epsilon"]) for line in read_lines(path) if line]
    assert left == [*3 * [("features", 204.0)], ("reason", None), ("features", 204.0), ("reason", None)]
