"""MistNet as commands: what a user reads, what an owner's audit log says, and mistakes in one line each."""

import pytest

from tests.helpers.processes import Processes, assert_one_line, dialling, ended_well
from tests.helpers.support import recorded

DIGITS = ("--dataset", "digits")
MISTNET = (*DIGITS, "--algorithm", "mistnet", "--run-dir", "run")
MLP = ("--model", "mlp", "--split-at", "relu1")
PRETRAINED = ("--algorithm", "mistnet", *MLP, "--pretrained", "mlp.safetensors")
"""A model that ``pretrain`` made, so that a run need not start a process that makes one."""


def pretrain(given: Processes) -> None:
    ended_well(given.fork("pretrain", *DIGITS, *MLP, "--epochs", "1", "-o", "mlp.safetensors"))


@pytest.mark.long
def test_a_run_from_one_upload_with_bare_defaults(given: Processes) -> None:
    urls = given.nodes(*DIGITS)
    run = ended_well(given.fork("run", *dialling(urls), *MISTNET, "--server_epochs", "3", "--evaluate_every", "1"))
    run.line("Pretrained for 20 epochs$")
    run.line(r"alice extracted 578 records of 2880 features \(20 x 12 x 12\), 0\.2 MB$")
    for name, count in (("alice", 578), ("bob", 436), ("charlie", 428)):
        run.line(f"{name} uploaded its {count} records and deleted its copy$")
    run.line(
        "Privacy: epsilon 2 for each of a record's 2880 features and 4 for its label; 5764 for the record as a whole"
    )
    run.line("Training started with 1442 records$")
    for epoch in (1, 2, 3):
        run.line(f"Training epoch {epoch}/3$")
    run.line(r"Federated accuracy after round 3: \d\d\.\d\d%$")
    first, *_, last = recorded(given.folder / "run", "round")
    assert (last["record_epsilon"], last["num_examples"], last["num_results"]) == (5764.0, 1442, 3)
    features = 1442 * 360
    assert features < first["bytes_received"] < 1.1 * features, "a bit is a bit on the wire, and is sent once"
    assert all(record["bytes_received"] < 1000 for record in recorded(given.folder / "run", "round")[1:])
    _, *rows = ended_well(given.fork("audit", "alice")).lines
    assert sum(" features " in row and row.endswith(" 5764.0") for row in rows) == 1
    assert not any(" tensors " in row for row in rows)


def test_a_pretrained_model_and_settings_of_ones_own(given: Processes) -> None:
    several = ("--split-at", "relu1", "--num-extractors", "2", "-o", "mlp.safetensors")
    made = ended_well(given.fork("pretrain", *DIGITS, "--model", "mlp", "--epochs", "2", *several))
    made.line(r"epoch 2/2: loss \d\.\d{4}$")
    for number in (1, 2):
        made.line(rf"accuracy \d\d\.\d\d % on 355 test samples of digits with extractor {number}$")
    how = "--algorithm mistnet --split-at relu1 --extractor random --model mlp --pretrained mlp.safetensors"
    made.line(f"use it with: fedws run {how}$")
    (given.folder / "policy.toml").write_text('tasks = ["*", "mistnet.fine_tune"]\n')  # as the README says
    urls = given.nodes(*DIGITS, "--policy", "policy.toml", nodes=("alice", "bob"))
    chosen = (
        "--split-at",
        "relu1",
        "--epsilon",
        "8",
        "--label_epsilon",
        "8",
        "--encoding",
        "sue",
        "--server-epochs",
        "2",
    )
    ways = ("--extractor", "random", "--extractor_epochs", "1", "--model", "mlp", "--pretrained", "mlp.safetensors")
    run = ended_well(given.fork("run", *dialling(urls), *MISTNET, *ways, *chosen))
    assert not any("Pretrained" in line for line in run.lines)
    run.line(r"Each worker draws one of several extractors; this adds no privacy: features may reveal the choice$")
    run.line(r"Workers train first \(epochs: 1\), which takes time and memory on them$")
    run.line(r"Privacy: epsilon 8 for each of a record's 200 features and 8 for its label; no bound for")


def test_a_second_run_needs_the_owners_consent(given: Processes) -> None:
    """One upload leaves a node for a coordinator, also after the node has ended; the refusal tells what to do."""
    pretrain(given)
    for number, policy in enumerate(((), (), ("--policy", "policy.toml"))):
        (given.folder / "policy.toml").write_text("max_uploads = 2\n")
        urls = given.nodes(*DIGITS, *policy, nodes=("alice",))
        process = given.fork(
            "run", *dialling(urls), *DIGITS, *PRETRAINED, "--server-epochs", "1", "--run-dir", f"run{number}"
        )
        if number == 1:
            assert_one_line(process, "alice: refused the request: .* set max_uploads = 2 in the node's --policy", 1)
        else:
            ended_well(process)


def test_a_model_that_public_data_do_not_fit_is_told(given: Processes) -> None:
    urls = given.nodes(*DIGITS, nodes=("alice",))
    run = given.fork("run", *dialling(urls), *MISTNET, "--model", "cifar_cnn", "--split-at", "2")
    why = "samples of digits do not fit cifar_cnn; pretrain the model on other samples with 'fedws pretrain', and pass"
    assert run.end() == 1 and any(why in line for line in run.errors), run.everything


def test_a_policy_that_allows_no_features_is_named_with_its_reason(given: Processes) -> None:
    (given.folder / "policy.toml").write_text("max_epsilon = 1.0\n")
    urls = given.nodes(*DIGITS, "--policy", "policy.toml", nodes=("alice",))
    pretrain(given)
    run = given.fork("run", *dialling(urls), *DIGITS, *PRETRAINED, "--run-dir", "run")
    why = "alice: refused the request: policy: epsilon 2 requested, at most 1 allowed"
    assert_one_line(run, why, 1)


@pytest.mark.parametrize(
    ("flags", "pattern"),
    [
        ("--split-at conv9", "--split-at conv9: unknown split point in MnistCnn; choose from .*conv1, relu1, pool1"),
        ("--split-at fc2", "--split-at fc2: no weights after it in MnistCnn; choose from "),
        ("--split-at 17", "--split-at 17: unknown split point in MnistCnn; choose from "),
        ("--epsilon 0", "epsilon: .* greater than 0, not '0'"),
        ("--epsilon -2", "epsilon: .* greater than 0, not '-2'"),
        ("--epsilon much", "epsilon: .*, not 'much'"),
        ("--label_epsilon nan", "label_epsilon: .*, not 'nan'"),
        ("--encoding morse", "unknown encoding 'morse'"),
        ("--encoding floats --epsilon 2", "unknown option of encoding floats 'epsilon'"),
        ("--model linear", "--split-at is required: model 'linear' has no default split point; available: none"),
        (
            "--model mlp",
            "--split-at is required: model 'mlp' has no default split point; available: fc1, relu1, fc2, relu2",
        ),
        ("--server_epochs 0", "--server-epochs: expected at least 1, got 0"),
        (
            "--server_epochs 2 --rounds 2",
            "--server-epochs cannot be combined with --rounds, which has the same meaning",
        ),
        ("--min-results 4", "--min-results 4 exceeds the number of workers, 3"),
        (
            "--sampler random:per_round=2",
            "--sampler requires an algorithm with rounds, and mistnet collects features only once",
        ),
        (
            "--weight-by-samples",
            "--weight-by-samples requires an algorithm with rounds, and mistnet collects features only once",
        ),
        ("--pretrained none", "cannot read the pretrained model none: No such file or directory"),
        ("--pretrained notes.txt", "notes.txt is not a pretrained model; create one with 'fedws pretrain'"),
        ("--extractor both", "extractor: .*'one' or 'random', not 'both'"),
        ("--extractor_epochs -1", "extractor_epochs: .* greater than or equal to 0, not '-1'"),
        ("--algorithm fedavg --split-at pool1", "unknown option of algorithm fedavg 'split_at'"),
    ],
)
def test_a_mistake_is_one_line(given: Processes, flags: str, pattern: str) -> None:
    (given.folder / "notes.txt").write_text("mine")
    run = given.fork("run", *MISTNET, *flags.split())
    assert_one_line(run, pattern, 2)
    assert not (given.folder / "run").exists()


def test_a_simulated_fleet_has_no_such_strategy(given: Processes) -> None:
    command = given.fork("simulate", "--algorithm", "mistnet", *DIGITS, "--num-workers", "3", "--run-dir", "run")
    assert_one_line(
        command, "--algorithm mistnet cannot be simulated: training at the coordinator takes no virtual time", 2
    )


def test_pretraining_mistakes_are_one_line(given: Processes) -> None:
    for flags, pattern in (
        ("--epochs 0", "--epochs: expected at least 1, got 0"),
        ("--num-extractors 17", "--num-extractors: expected 1 to 16, got 17"),
        ("--num-extractors 2 --split-at conv9", "--split-at conv9: unknown split point in MnistCnn; choose from "),
        ("--lr 0", "--lr: .* greater than 0, not 0"),
        ("--model cifar_cnn", "the samples of digits do not fit the model cifar_cnn: "),
        ("--dataset none", "unknown dataset 'none'"),
        ("--output none/x --epochs 1", "cannot write none/x: directory 'none' not found; choose another --output"),
    ):
        assert_one_line(given.fork("pretrain", *flags.split()), pattern, 2)
