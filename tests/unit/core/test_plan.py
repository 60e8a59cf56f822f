import math
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fedws.core.errors import UsageError
from fedws.core.plan import Plan, build_plan, read_plan_file
from fedws.core.task_settings import EvalSettings, TrainSettings
from fedws.core.validation import describe_setting_error

WORKERS = {"alice": "ws://localhost:8777", "bob": "ws://localhost:8778"}
INT = "Input should be a valid integer"
FLOAT = "Input should be a valid number"

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"rounds": 0}, "rounds: Input should be greater than or equal to 1, not 0"),
    ({"rounds": "many"}, f"rounds: {INT}, unable to parse string as an integer, not 'many'"),
    ({"rounds": 1.5}, f"rounds: {INT}, got a number with a fractional part, not 1.5"),
    ({"rounds": None}, f"rounds: {INT}, not None"),
    ({"evaluate_every": -1}, "evaluate_every: Input should be greater than or equal to 1, not -1"),
    ({"evaluate_worker_models": -1}, "evaluate_worker_models: Input should be greater than or equal to 0, not -1"),
    ({"lr": 0}, "lr: Input should be greater than 0, not 0"),
    ({"lr": math.inf}, "lr: Input should be a finite number, not inf"),
    ({"lr": math.nan}, "lr: Input should be a finite number, not nan"),
    ({"lr": "fast"}, f"lr: {FLOAT}, unable to parse string as a number, not 'fast'"),
    ({"batch_size": 0}, "batch_size: Input should be greater than or equal to 1, not 0"),
    ({"test_batch_size": 0}, "test_batch_size: Input should be greater than or equal to 1, not 0"),
    ({"lr_decay": 1.1}, "lr_decay: Input should be less than or equal to 1, not 1.1"),
    ({"lr_decay": 0}, "lr_decay: Input should be greater than 0, not 0"),
    ({"epochs": -1}, "epochs: Input should be greater than or equal to 1, not -1"),
    ({"max_local_batches": 0}, "max_local_batches: Input should be greater than or equal to 1, not 0"),
    ({"seed": -1}, "seed: Input should be greater than or equal to 0, not -1"),
    ({"seed": 2**63}, f"seed: Input should be less than {2**63}, not {2**63}"),
    ({"peer_timeout": 0}, "peer_timeout: Input should be greater than 0, not 0"),
    ({"peer_timeout": math.inf}, "peer_timeout: Input should be a finite number, not inf"),
    ({"max_feature_bytes": 0}, "max_feature_bytes: Input should be greater than or equal to 1, not 0"),
    ({"max_message_bytes": 1023}, "max_message_bytes: Input should be greater than or equal to 1024, not 1023"),
    ({"threads": 0}, "threads: Input should be greater than or equal to 1, not 0"),
    ({"min_results": 5}, "--min-results 5 exceeds the number of workers, 3"),
    ({"min_results": 3, "workers": WORKERS}, "--min-results 3 exceeds the number of workers, 2"),
    ({"min_results": -1}, "min_results: Input should be greater than or equal to 0, not -1"),
    ({"over_selection": -0.1}, "over_selection: Input should be greater than or equal to 0, not -0.1"),
    ({"over_selection": math.inf}, "over_selection: Input should be less than or equal to 10, not inf"),
    ({"over_selection": math.nan}, "over_selection: Input should be less than or equal to 10, not nan"),
    ({"round_timeout": 0}, "round_timeout: Input should be greater than 0, not 0"),
    ({"round_timeout": -1.5}, "round_timeout: Input should be greater than 0, not -1.5"),
    ({"round_timeout": math.nan}, "round_timeout: Input should be greater than 0, not nan"),
    ({"ping_interval": -1}, "ping_interval: Input should be greater than or equal to 0, not -1"),
    ({"ping_interval": math.inf}, "ping_interval: Input should be a finite number, not inf"),
    ({"ping_interval": 31}, "--ping-interval 31 exceeds half of --peer-timeout 60"),
    ({"ping_interval": 0.3, "peer_timeout": 0.5}, "--ping-interval 0.3 exceeds half of --peer-timeout 0.5"),
    ({"wait_for_workers": "never"}, "wait_for_workers: Input should be 'peer_timeout' or 'forever', not 'never'"),
    ({"wait_for_workers": 60}, "wait_for_workers: Input should be 'peer_timeout' or 'forever', not 60"),
    ({"sampler": 1}, "sampler: Input should be a valid string, not 1"),
    ({"cuda": "perhaps"}, "cuda: Input should be a valid boolean, unable to interpret input, not 'perhaps'"),
    ({"algorithm": 1}, "algorithm: Input should be a valid string, not 1"),
    ({"plugins": 5}, "plugins: Input should be a valid tuple, not 5"),
    ({"no_such": 1}, "unknown setting 'no_such'"),
    ({"two\nlines": 1}, r"unknown setting ''two\nlines''"),
    ({"workers": {}}, "workers: Dictionary should have at least 1 item after validation, not 0"),
    ({"workers": None}, "workers: Input should be a valid dictionary, not None"),
    (
        {"workers": {"a b": "ws://h:1"}},
        "'a b' is not a valid node id; use at most 64 of the letters a-z and A-Z, digits",
    ),
    ({"workers": {"": "ws://h:1"}}, "'' is not a valid node id; use at most 64 of the letters a-z and A-Z, digits"),
    (
        {"workers": {"../x": "ws://h:1"}},
        "'../x' is not a valid node id; use at most 64 of the letters a-z and A-Z, digits",
    ),
    (
        {"workers": {"a\n": "ws://h:1"}},
        r"'a\n' is not a valid node id; use at most 64 of the letters a-z and A-Z, digits",
    ),
    ({"workers": {"a" * 65: "ws://h:1"}}, "is not a valid node id; use at most 64 of the letters a-z and A-Z, digits"),
    (
        {"workers": {"alice": "localhost"}},
        "workers.alice: 'localhost' is not a valid address; use the form ws://host:8777",
    ),
    ({"workers": {"alice": "://h:1"}}, "workers.alice: '://h:1' is not a valid address; use the form ws://host:8777"),
    ({"workers": {"alice": "ws://"}}, "workers.alice: 'ws://' is not a valid address; use the form ws://host:8777"),
    ({"workers": {"alice": 8777}}, "workers.alice: Input should be a valid string, not 8777"),
    (
        {"workers": {"alice": "ws://h:1"}, "evaluator": {"alice": "ws://h:2"}},
        "'alice' is both a worker and the evaluator",
    ),
    (
        {"workers": {"federated": "ws://h:1"}},
        "'federated' is reserved for the federated model; choose another worker id",
    ),
    ({"workers": {"a": "ws://[::1"}}, "workers.a: 'ws://[::1' is not a valid address; use the form ws://host:8777"),
    (
        {"listen": "h:1", "expect_workers": ["a"]},
        "--listen: 'h:1' is not a valid address; use the form ws://0.0.0.0:9000",
    ),
    ({"listen": 5, "expect_workers": ["a"]}, "workers.a: Input should be a valid string, not 5"),
    (
        {"listen": "ws://l:1"},
        "--listen: no node is expected to connect; name the nodes with --expect-workers alice bob charlie",
    ),
    (
        {"listen": "ws://l:1", "expect_workers": []},
        "--listen: no node is expected to connect; name the nodes with --expect-workers alice bob charlie",
    ),
    ({"expect_workers": ["a", "b"]}, "no address for 'a', 'b'; give one, or let it connect to --listen ADDRESS"),
    ({"evaluator": "e"}, "no address for 'e'; give one, or let it connect to --listen ADDRESS"),
    ({"listen": "ws://l:1", "evaluator": "e f"}, "'e f' is not a valid node id"),
    ({"listen": "ws://l:1", "expect_workers": ["a b"]}, "'a b' is not a valid node id"),
    ({"listen": "ws://l:1", "expect_workers": "ab"}, "expect_workers: expected a list of node names, got 'ab'"),
    ({"listen": "ws://l:1", "expect_workers": [1]}, "expect_workers: expected a list of node names, got [1]"),
    ({"listen": "ws://l:1", "expect_workers": None}, "expect_workers: expected a list of node names, got None"),
    (
        {"listen": "ws://l:1", "expect_workers": ["a", "b", "a"]},
        "duplicate node 'a' in --expect-workers; give every node its own id",
    ),
    (
        {"listen": "ws://l:1", "expect_workers": ["a"], "workers": {"a": "ws://h:1"}},
        "'a' is in --expect-workers and also has the address ws://h:1; remove one of them",
    ),
    ({"listen": "ws://l:1", "expect_workers": ["a"], "workers": ["a"]}, "workers: Input should be a valid dictionary"),
    (
        {"listen": "ws://l:1", "expect_workers": ["a"], "workers": None},
        "workers: Input should be a valid dictionary, not None",
    ),
    (
        {"listen": "ws://l:1", "expect_workers": ["a"], "evaluator": "a"},
        "'a' is both a worker and the evaluator",
    ),
    (
        {"listen": "ws://l:1", "expect_workers": ["federated"]},
        "'federated' is reserved for the federated model; choose another",
    ),
    ({"evaluator": {"e": "ws://h:1", "f": "ws://h:2"}}, "evaluator: Dictionary should have at most 1 item"),
]


@pytest.mark.parametrize(("values", "text"), WRONG, ids=lambda value: value if isinstance(value, str) else "")
def test_a_bad_setting_gives_one_line_that_names_it(values: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        build_plan(values)
    assert text in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_every_setting_with_a_bound_is_among_the_bad_ones() -> None:
    tried = {name for values, _ in WRONG for name in values}
    # names and a file, looked up elsewhere, and flags
    free = {"aggregator", "dataset", "model", "initial_model", "loss", "optimizer", "weight_by_samples", "drop_last"}
    assert set(Plan.model_fields) == (tried - {"no_such", "two\nlines", "expect_workers"}) | free


def test_nothing_given_is_the_demo() -> None:
    plan = build_plan({})
    assert plan.workers == {
        "alice": "ws://localhost:8777",
        "bob": "ws://localhost:8778",
        "charlie": "ws://localhost:8779",
    }
    assert plan.evaluator == {"testing": "ws://localhost:8780"}
    assert (plan.batch_size, plan.test_batch_size, plan.rounds) == (32, 128, 40)
    assert (plan.train_settings().max_local_batches, plan.train_settings().epochs, plan.lr_decay) == (10, 1, 0.98)
    assert (plan.lr, plan.seed, plan.cuda, plan.drop_last) == (0.1, 1, False, False)
    assert (plan.algorithm, plan.weight_by_samples, plan.loss, plan.dataset) == ("fedavg", False, "nll", "mnist")


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"min_results": 3},
        {"over_selection": 10},
        {"round_timeout": math.inf},
        {"round_timeout": 0.001},
        {"ping_interval": 30},
        {"ping_interval": 0, "peer_timeout": 0.001},
        {"wait_for_workers": "forever"},
        {"sampler": "speed:2,max_slowdown=4"},
        {"plugins": ("a.py", "b.py"), "evaluator": {}, "seed": 2**63 - 1, "lr": 1e-300},
    ],
    ids=str,
)
def test_what_is_just_good_comes_back_from_a_plan_file(tmp_path: Path, values: dict[str, Any]) -> None:
    plan = build_plan(values)
    assert {name: getattr(plan, name) for name in values} == values
    path = tmp_path / "plan.toml"
    path.write_text(tomli_w.dumps(plan.model_dump()), encoding="utf-8")
    assert build_plan(read_plan_file(path)) == plan


def test_a_round_has_no_deadline_unless_one_is_given() -> None:
    plan = build_plan({})
    assert (plan.sampler, plan.min_results, plan.over_selection, plan.round_timeout) == ("all", 0, 0.0, math.inf)
    assert (plan.ping_interval, plan.wait_for_workers) == (0.0, "peer_timeout")
    assert build_plan({"round_timeout": "inf"}) == build_plan({"round_timeout": "Infinity"}) == plan, (
        "as a flag gives it"
    )


def test_nodes_without_an_address_have_that_at_which_the_run_listens() -> None:
    dialled = {"dora": "ws://h:1"}
    plan = build_plan(
        {"listen": "ws://l:1", "expect_workers": ("alice", "bob"), "workers": dialled, "evaluator": "testing"}
    )
    assert plan.workers == {"dora": "ws://h:1", "alice": "ws://l:1", "bob": "ws://l:1"}
    assert plan.evaluator == {"testing": "ws://l:1"} and plan.listen == "ws://l:1"
    assert build_plan({"listen": "ws://l:1", "evaluator": "testing"}).workers == build_plan({}).workers, (
        "all others are dialled"
    )
    assert build_plan({"listen": "ws://l:1", "expect_workers": ["alice"]}).evaluator == {}, (
        "none is dialled that nobody named"
    )
    assert build_plan({"expect_workers": []}) == build_plan({})


def test_a_plan_in_which_nodes_join_comes_back_from_a_plan_file(tmp_path: Path) -> None:
    plan = build_plan({"listen": "ws://l:1", "expect_workers": ["alice", "bob"], "evaluator": "testing"})
    path = tmp_path / "plan.toml"
    path.write_text(tomli_w.dumps(plan.model_dump()), encoding="utf-8")
    assert build_plan(read_plan_file(path)) == plan
    path.write_text('listen = "ws://l:1"\nexpect_workers = ["alice", "bob"]\nevaluator = "testing"\n', encoding="utf-8")
    assert build_plan(read_plan_file(path)) == plan, "as a person writes it"


def test_a_plan_cannot_be_changed() -> None:
    plan = build_plan({})
    for name in Plan.model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(plan, name, getattr(plan, name))


def test_the_halves_of_a_plan_say_what_the_plan_says() -> None:
    plan = build_plan(
        {
            "model": "mlp:20",
            "loss": "mse",
            "optimizer": "adam",
            "dataset": "digits",
            "lr": 0.5,
            "batch_size": 3,
            "lr_decay": 0.5,
            "max_local_batches": 4,
            "epochs": 6,
            "drop_last": True,
            "test_batch_size": 5,
            "cuda": True,
        }
    )
    assert plan.train_settings() == TrainSettings(
        model="mlp:20",
        loss="mse",
        optimizer="adam",
        dataset="digits",
        lr=0.5,
        lr_decay=0.5,
        batch_size=3,
        max_local_batches=4,
        epochs=6,
        drop_last=True,
        cuda=True,
    )
    assert plan.eval_settings() == EvalSettings(model="mlp:20", loss="mse", dataset="digits", batch_size=5, cuda=True)


@pytest.mark.parametrize("given", [{}, {"epochs": 2}, {"max_local_batches": 7}])
def test_a_plan_that_is_written_and_read_trains_the_same(given: dict[str, int]) -> None:
    """Also what was not given stays not given: TOML has no word for it."""
    plan = build_plan({"model": "m", **given})
    written = plan.model_dump()
    assert ("max_local_batches" in written) == ("max_local_batches" in given)
    again = build_plan(written)
    assert again == plan and again.train_settings().with_epochs(3) == plan.train_settings().with_epochs(3)


@pytest.mark.parametrize(("decay", "rates"), [(1, [0.1, 0.1]), (0.5, [0.05, 0.001]), (0.98, [0.098, 0.0133])])
def test_the_rate_decays_as_the_plan_says_down_to_a_hundredth(decay: float, rates: list[float]) -> None:
    training = build_plan({"model": "m", "lr_decay": decay}).train_settings()
    assert [training.for_round(round_number).lr for round_number in (2, 101)] == pytest.approx(rates, rel=5e-3)


def test_the_rounds_of_the_reference_are_scored() -> None:
    evaluated = [number for number in range(1, 41) if build_plan({}).is_evaluation_round(number)]
    assert evaluated == [1, 11, 21, 31, 40]


@settings(deadline=None)
@given(rounds=st.integers(1, 60), every=st.integers(1, 70))
def test_first_and_last_round_are_scored_whatever_the_step(rounds: int, every: int) -> None:
    plan = build_plan({"rounds": rounds, "evaluate_every": every})
    scored = [round_number for round_number in range(1, rounds + 1) if plan.is_evaluation_round(round_number)]
    assert scored[0] == 1 and scored[-1] == rounds
    assert scored == sorted({*range(1, rounds + 1, every), rounds})


def test_nothing_is_scored_without_an_evaluator() -> None:
    plan = build_plan({"evaluator": {}})
    assert not any(plan.is_evaluation_round(round_number) for round_number in range(1, 41))


@settings(deadline=None)
@given(
    lr=st.floats(1e-6, 1e3),
    decay=st.floats(0.0, 1.0, exclude_min=True),
    round_number=st.integers(1, 600),
)
def test_the_learning_rate_falls_by_repeated_multiplication_to_one_percent(
    lr: float, decay: float, round_number: int
) -> None:
    wanted = lr
    for _ in range(round_number - 1):
        wanted *= decay
        if wanted < lr * 0.01:
            wanted = lr * 0.01
    assert TrainSettings(model="m", lr=lr, lr_decay=decay).for_round(round_number).lr == wanted


def test_the_floor_of_the_learning_rate_is_reached_and_kept() -> None:
    training = TrainSettings(model="m", lr=0.1)
    assert training.for_round(1) == training
    assert training.for_round(40).lr == pytest.approx(0.1 * 0.98**39)
    assert training.for_round(229).lr == pytest.approx(0.001) == training.for_round(1000).lr
    assert training.for_round(228).lr > 0.001


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "model: Field required"),
        ({"model": "m", "lr": "0.1"}, "lr: Input should be a valid number, not '0.1'"),
        ({"model": "m", "max_local_batches": 1.0}, "max_local_batches: Input should be a valid integer, not 1.0"),
        ({"model": "m", "max_local_batches": True}, "max_local_batches: Input should be a valid integer, not True"),
        ({"model": "m", "lr_decay": 1.5}, "lr_decay: Input should be less than or equal to 1, not 1.5"),
        ({"model": "m", "lr_decay": math.nan}, "lr_decay: "),
        ({"model": "m", "cuda": 1}, "cuda: Input should be a valid boolean, not 1"),
        ({"model": "m", "run": "rm"}, "unknown setting 'run'"),
    ],
)
def test_settings_that_crossed_the_wire_are_taken_to_the_letter(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TrainSettings.model_validate(values)
    assert describe_setting_error(caught.value).startswith(text)


def test_a_plan_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text('lr = 0.5\n[workers]\nalice = "ws://h:1"\n', encoding="utf-8")
    assert read_plan_file(path) == {"lr": 0.5, "workers": {"alice": "ws://h:1"}}
    assert build_plan(read_plan_file(path)).workers == {"alice": "ws://h:1"}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"lr = ", "Invalid value"),
        (b"lr = 1\nlr = 2", "Cannot overwrite a value"),
        (b"\xff", "not a text file in UTF-8; save it as UTF-8"),
        (None, "No such file or directory"),
    ],
)
def test_a_plan_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, text: str) -> None:
    path = tmp_path / "plan.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_plan_file(path)
    assert str(caught.value).startswith(f"--plan {path}: ") and text in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_directory_is_no_plan_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Is a directory"):
        read_plan_file(tmp_path)
