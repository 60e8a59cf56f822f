"""The demo's two scripts on the real MNIST: the answer, what is printed and what is left, in one run of four rounds."""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors.torch
import torch

from tests.end_to_end.plain_loop import train
from tests.helpers.processes import NODES, Processes, dialling, identity, serving
from tests.helpers.support import recorded
from tests.helpers.tensorboard_reader import written

ROUNDS = 4
TRAIN = (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
TEST = (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)
HELD = {"alice": range(4), "bob": range(4, 7), "charlie": range(7, 10), "testing": range(10)}
SHARES = r"0-3: \d+%, 4-6: \d+%, 7-9: \d+%"
RESULT = r"Average loss: \d+\.\d{4}, Accuracy: \d+/10000 \(\d+\.\d\d%\)"


@dataclass(frozen=True)
class Ran:
    """Four nodes that go on serving, and a run over them that has ended."""

    processes: Processes
    urls: dict[str, str]
    printed: dict[str, list[str]]
    """The lines on standard output, by node, and the coordinator's."""
    directory: Path


@pytest.fixture(scope="module")
def ran(mnist_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    """The scripts as one types them, alice's and the coordinator's started the ordinary way; '-' and '_' in turn."""
    folder = tmp_path_factory.mktemp("mnist")
    processes = Processes(folder, {"FEDWS_DATA": str(mnist_root)})
    try:
        script, (first, *others) = "run_websocket_server.py", NODES
        nodes = {first: processes.start(script, *identity(first))}
        nodes |= {node: processes.fork_script(script, *identity(node)) for node in others}
        urls = serving(nodes)
        flags = ["--training_rounds", str(ROUNDS), "--batch_size", "32", "--test-batch-size", "100", "--lr", "0.1"]
        flags += ["--federate_after_n_batches", "10", "--seed", "1", "--cuda", "--save_model", "--verbose"]
        run = processes.start("run_websocket_client.py", *dialling(urls), *flags, "--run_dir", "made/run")
        assert run.end() == 0, run.everything
        assert run.errors == []
        printed = {node: list(command.lines) for node, command in nodes.items()}
        yield Ran(processes, urls, {**printed, "coordinator": run.lines}, folder / "made" / "run")
        assert all(command.errors == [] for command in nodes.values())
    finally:
        processes.close()


def assert_same(model: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    """Equal names, dtypes and bits."""
    assert model.keys() == wanted.keys()
    for name, value in wanted.items():
        assert model[name].dtype == value.dtype
        assert torch.equal(model[name].view(torch.int32), value.view(torch.int32)), name


def test_weights_equal_those_of_a_plain_loop(ran: Ran, mnist_root: Path) -> None:
    assert_same(safetensors.torch.load_file(ran.directory / "model.safetensors"), train(mnist_root, ROUNDS))


def test_weighted_weights_equal_those_of_a_plain_loop(ran: Ran, mnist_root: Path) -> None:
    order = ("charlie", "alice", "bob")
    flags = dialling({node: ran.urls[node] for node in order})
    again = ran.processes.fork("run", *flags, "--weight-by-samples", "--rounds", "2", "--seed", "7", "--run-dir", "w")
    assert again.end() == 0, again.everything
    model = safetensors.torch.load_file(ran.processes.folder / "w" / "model.safetensors")
    assert_same(model, train(mnist_root, 2, seed=7, weighted=True))
    assert recorded(ran.processes.folder / "w", "evaluation") == []


def test_plan_file_repeats_the_run(ran: Ran) -> None:
    """On the same nodes, which serve one run after the other; the flag wins over the file."""
    flags = ["--plan", str(ran.directory / "plan.toml"), "--evaluator", "none", "--run-dir", "again"]
    again = ran.processes.fork("run", *flags)
    assert again.end() == 0, again.everything
    directory = ran.processes.folder / "again"
    assert_same(*(safetensors.torch.load_file(d / "model.safetensors") for d in (directory, ran.directory)))
    plans = [tomllib.loads((d / "plan.toml").read_text()) for d in (directory, ran.directory)]
    assert plans[0] == {**plans[1], "evaluator": {}}


@pytest.mark.parametrize("node", NODES)
def test_node_prints_the_counts_it_holds(ran: Ran, node: str) -> None:
    counts = TEST if node == "testing" else TRAIN
    held = [count if digit in HELD[node] else 0 for digit, count in enumerate(counts)]
    kind, key = ("test", "mnist_testing") if node == "testing" else ("train", "mnist")
    assert ran.printed[node][:13] == [
        f"MNIST dataset ({kind} set), available numbers on {node}:",
        *(f"      {digit}: {count}" for digit, count in enumerate(held)),
        f"datasets: {{'{key}': Images({sum(held)} of 1 x 28 x 28)}}",
        f"len(datasets[{key}]): {sum(held)}",
    ]


def test_log_lines_are_the_reference_s(ran: Ran) -> None:
    stamped = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \| ((Training|Evaluating|Model|Federated) .*)"
    lines = [found[1] for line in ran.printed["coordinator"] if (found := re.fullmatch(stamped, line))]
    names = [*(f"Model update {worker}" for worker in NODES[:3]), "Federated model"]
    scores = [rf"{name}: {text}" for name in names for text in (f"Percentage numbers {SHARES}", RESULT)]
    wanted = ["Training round 1/4", "Evaluating models", *scores]
    wanted += ["Training round 2/4", "Training round 3/4", "Training round 4/4", "Evaluating models", *scores]
    assert len(lines) == len(wanted)
    for text, pattern in zip(lines, wanted, strict=True):
        assert re.fullmatch(pattern, text), (text, pattern)


def test_after_one_round_a_worker_predicts_only_digits_it_holds(ran: Ran) -> None:
    lines = "\n".join(ran.printed["coordinator"])
    for worker, shares in (("alice", "100%, 4-6: 0%, 7-9: 0%"), ("bob", "0%, 4-6: 100%, 7-9: 0%")):
        assert f"Model update {worker}: Percentage numbers 0-3: {shares}" in lines
    assert "Model update charlie: Percentage numbers 0-3: 0%, 4-6: 0%, 7-9: 100%" in lines
    for score in recorded(ran.directory, "evaluation")[:3]:
        histogram = score["predicted_label_counts"]
        assert isinstance(histogram, list)
        assert [
            digit for digit, count in enumerate(histogram) if count and digit not in HELD[str(score["model"])]
        ] == []


def test_run_directory_has_what_is_promised(ran: Ran) -> None:
    names = {path.name for path in ran.directory.iterdir()}
    events = {name for name in names if name.startswith("events.out.tfevents.")}
    assert len(events) == 1
    promised = {
        "plan.toml",
        "run.json",
        "worker_labels.json",
        "run.log",
        "metrics.jsonl",
        "model.safetensors",
        "curves.png",
    }
    assert names - events == promised | {"checkpoints"}
    assert (ran.directory / "curves.png").read_bytes().startswith(b"\x89PNG")
    logged = (ran.directory / "run.log").read_text().splitlines()
    assert [line for line in ran.printed["coordinator"] if line in logged] == logged
    assert any(line.endswith("| Training round 1/4") for line in logged)


def test_metrics_have_the_promised_keys(ran: Ran) -> None:
    rounds, scores = recorded(ran.directory, "round"), recorded(ran.directory, "evaluation")
    assert [record["round"] for record in rounds] == [1, 2, 3, 4]
    for record in rounds:
        counts = {"seconds", "bytes_sent", "bytes_received", "num_results", "num_failures", "num_late"}
        assert set(record) == {"kind", "round", "cohort", "missing_workers", "metrics", *counts}
        assert set(record["metrics"]) == {"loss"}
        assert (record["num_results"], record["num_failures"], record["num_late"]) == (3, 0, 0)
        assert record["missing_workers"] == []
        assert record["cohort"] == ["alice", "bob", "charlie"]
    models = ["alice", "bob", "charlie", "federated"]
    assert [(score["round"], score["model"]) for score in scores] == [(r, model) for r in (1, 4) for model in models]
    for score in scores:
        counts = {"num_correct", "num_examples", "predicted_label_counts"}
        assert set(score) == {"kind", "round", "model", "accuracy", "loss", *counts}
        assert isinstance(score["accuracy"], float) and 0 <= score["accuracy"] <= 1
        assert score["accuracy"] == score["num_correct"] / 10_000
        assert isinstance(score["predicted_label_counts"], list)
        assert sum(score["predicted_label_counts"]) == score["num_examples"] == 10_000
        assert isinstance(score["loss"], float) and score["loss"] > 0.1, "the true mean, not a sum over 128"


def test_a_round_costs_little_more_than_its_models(ran: Ran) -> None:
    """Over the wire go six models a round, and at most 0.2 % beside them."""
    for record in recorded(ran.directory, "round"):
        sent, received = record["bytes_sent"], record["bytes_received"]
        assert isinstance(sent, int) and isinstance(received, int)
        assert 1 < (sent + received) / (2 * 3 * 1_724_320) <= 1.002


def test_tensorboard_reads_the_events(ran: Ran) -> None:
    (file,) = ran.directory.glob("events.out.tfevents.*")
    tags = {tag for _, tag, _ in written(file.parent)}
    assert {"accuracy/federated", "accuracy/alice", "loss/federated", "round/seconds"} <= tags


def test_saved_model_is_the_trained_one(ran: Ran) -> None:
    saved = torch.load(ran.processes.folder / "mnist_cnn.pt", weights_only=True)
    assert_same(saved, safetensors.torch.load_file(ran.directory / "model.safetensors"))
    assert "saved mnist_cnn.pt" in ran.printed["coordinator"]


def test_cuda_says_who_has_none(ran: Ran) -> None:
    told = "--cuda: no GPU on alice, bob, charlie, which compute on the CPU"
    assert any(line.endswith(f"| {told}") for line in ran.printed["coordinator"]) != torch.cuda.is_available()


def test_the_end_says_what_came_of_it_and_where_it_is(ran: Ran) -> None:
    *_, accuracy, log, plot, model, _saved = ran.printed["coordinator"]
    last = recorded(ran.directory, "evaluation")[-1]
    assert accuracy == f"Federated accuracy after round 4: {100 * float(str(last['accuracy'])):.2f}%"
    assert [log.split(), plot.split(), model.split()] == [
        ["log", "made/run/run.log"],
        ["plot", "made/run/curves.png"],
        ["model", "made/run/model.safetensors"],
    ]
