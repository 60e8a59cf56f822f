"""Bad input of every kind: one clear line on standard error, an exit status that is not 0, nothing half-done."""

import re
import shutil
import socket
from collections.abc import Iterator

import pytest
import safetensors.torch

from tests.helpers.processes import NO_NETWORK, Processes, assert_one_line, dialling
from tests.helpers.support import write_idx


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """One folder for all; a test that leaves something there is found out."""
    started = Processes(tmp_path_factory.mktemp("bad"), {**NO_NETWORK, "FEDWS_DATA": "data", "HOME": "home"})
    yield started
    started.close()


def assert_bad(processes: Processes, argv: str, pattern: str) -> None:
    """A usage error, and no file more than before."""
    before = sorted(processes.folder.rglob("*"))
    assert_one_line(processes.fork(*argv.split()), pattern, 2)
    assert sorted(processes.folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("argv", "pattern"),
    [
        ("rnu", "unknown command 'rnu'; did you mean 'run'?"),
        ("run --training-round 3", "unknown argument '--training-round'; did you mean '--rounds'?"),
        ("run --training_rouns=3", "unknown argument '--training-rouns=3'; did you mean '--rounds'?"),
        ("run --training-rounds 3", "unknown argument '--training-rounds'; did you mean '--rounds'?"),
        ("worker --id a --testing", "unknown argument '--testing'; did you mean '--evaluator'?"),
        ("worker --id a --seed 2", "unknown argument '--seed'; did you mean '--partition-seed'?"),
        ("nodes", "unknown command 'nodes'; did you mean 'demo-nodes'?"),
        ("attack", "required: features"),
        ("attack gradients", "invalid choice: 'gradients' .choose from .?features"),
        ("run --rounds 0", "--rounds: .* greater than or equal to 1, not 0"),
        ("run --rounds many", "--rounds: invalid int value: 'many'"),
        ("run --epochs 0", "--epochs: .* greater than or equal to 1, not 0"),
        ("run --algorithm fedavg:epochs=0", "algorithm fedavg: epochs: .* greater than or equal to 1, not '0'"),
        ("run --dataset reg", "unknown dataset 'reg'; .*, or load your own with --plugin FILE.py"),
        ("run --lr 0", "--lr: .* greater than 0, not 0"),
        ("run --lr nan", "--lr: .*, not nan"),
        ("run --batch_size -3", "--batch-size: .*, not -3"),
        ("run --test_batch_size 0", "--test-batch-size: .*, not 0"),
        ("run --max_local_batches 0", "--max-local-batches: .*, not 0"),
        ("run --seed -1", "--seed: .*, not -1"),
        ("run --peer-timeout 0", "--peer-timeout: .*, not 0"),
        ("run --ping-interval 31", "--ping-interval 31 exceeds half of --peer-timeout 60"),
        ("run --wait-for-workers never", "--wait-for-workers: .*'peer_timeout' or 'forever', not 'never'"),
        ("run --min-results 4", "--min-results 4 exceeds the number of workers, 3"),
        ("run --min-results -1", "--min-results: .*, not -1"),
        (
            "run --min-results 3 --sampler random:per_round=2",
            "--min-results 3 exceeds the cohort of 2 workers that --sampler random",
        ),
        ("run --round-timeout 0", "--round-timeout: .* greater than 0, not 0"),
        ("run --round-timeout nan", "--round-timeout: .*, not nan"),
        ("run --over-selection 0.5", "--over-selection requires a --sampler that selects only some workers"),
        ("run --sampler randm", "unknown sampler 'randm'; did you mean 'random'"),
        (
            "run --algorithm fedasync --sampler random",
            "--sampler requires an algorithm with rounds, and fedasync is asynchronous",
        ),
        (
            "run --algorithm fedasync --round-timeout 5",
            "--round-timeout requires an algorithm with rounds, and fedasync is asynchronous",
        ),
        ("run --resume none", "--resume none: directory not found"),
        (
            "run --resume none --run-dir other",
            "--resume cannot be combined with --run-dir: .* plan and directory .*; remove --run-dir",
        ),
        ("run --resume none --plan plan.toml", "--resume cannot be combined with --plan: .*; remove --plan"),
        ("run --max-message-bytes 10", "--max-message-bytes: .*, not 10"),
        ("run --threads 0", "--threads: .*, not 0"),
        ("run --model mnist_cn", "unknown model 'mnist_cn'; did you mean 'mnist_cnn'"),
        ("run --model mlp:hiden=3", "unknown option of model mlp 'hiden'; did you mean 'hidden'"),
        ("run --model mlp:many", "model mlp: hidden: .*, not 'many'"),
        ("run --dataset mnis", "unknown dataset 'mnis'; did you mean 'mnist'"),
        ("run --algorithm fedavgg", "unknown algorithm 'fedavgg'; did you mean 'fedavg'"),
        ("run --aggregator meen", "unknown aggregator 'meen'; did you mean 'mean'"),
        ("run --loss cross_entrpy", "unknown loss 'cross_entrpy'; did you mean 'cross_entropy'"),
        ("run --optimizer sdg", "unknown optimizer 'sdg'; did you mean 'sgd'"),
        (
            "run --workers alice",
            "--workers: 'alice' is not a valid node; use the form ID=URL, such as alice=ws://localhost:8777",
        ),
        ("run --workers alice=nowhere", "'nowhere' is not a valid address; use the form ws://host:8777"),
        ("run --workers alice=ws://:8777", "'ws://:8777' is not a valid address; use the form ws://host:8777"),
        ("run --workers alice=ws://localhost:99999", "'ws://localhost:99999' is not a valid address"),
        (
            "run --workers alice=http://localhost:1",
            "unknown scheme 'http'; choose from memory, mqtt, mqtts, ws, wss",
        ),
        ("run --workers =ws://localhost:1", "'' is not a valid node id"),
        ("run --workers a!=ws://localhost:1", "'a!' is not a valid node id"),
        ("run --workers a=ws://h:1 a=ws://h:2", "--workers: duplicate node 'a'"),
        ("run --workers a=ws://h:1,b=ws://h:1", "ws://h:1 is the address of two nodes"),
        ("run --workers federated=ws://h:1", "'federated' is reserved for the federated model"),
        ("run --evaluator alice=ws://h:1", "'alice' is both a worker and the evaluator"),
        ("run --evaluator testing", "no address for 'testing'; give one, or let it connect to --listen ADDRESS"),
        ("run --plugin none.py", "--plugin none.py: Python file not found"),
        ("run --plan none.toml", "--plan none.toml: cannot read the file: No such file or directory"),
        ("run --run-dir /proc/fedws", "cannot write --run-dir /proc/fedws: "),
        ("run extra", "unknown argument 'extra'"),
        ("run --body-store-min-mb 3", "--body-store-min-mb requires --body-store"),
        (
            "run --body-store file:///tmp --body-store-min-mb -1",
            "--body-store-min-mb: expected a size in MB of at least 0, got -1",
        ),
        (
            "run --body-store file:///tmp --body-store-min-mb nan",
            "--body-store-min-mb: expected a size in MB of at least 0, got nan",
        ),
        ("run --body-store gs://bucket/x", "gs://bucket/x: unknown scheme 'gs'; choose from file, s3"),
        (
            "run --body-store bucket",
            "'bucket' is not a valid URL of a store; use the form s3://BUCKET/PREFIX or file:///PATH",
        ),
        (
            "run --body-store s3://me:hunter2@bucket",
            "the URL of a store must not contain '@'; remove the user and password",
        ),
        ("run --body-store file:///no/such/folder", "file:///no/such/folder: directory not found"),
        ("worker", "--id"),
        ("worker --id alice --prot 1", "unknown argument '--prot'; did you mean '--port'?"),
        ("worker --id alice -p 99999", "--port: 99999 is not a valid port"),
        ("worker --id alice --port http", "--port: invalid int value: 'http'"),
        ("worker --id dave", "--port is required: dave has no default port"),
        ("worker --id dave --port 0 --dataset digits", "dave has no default labels.*--labels.*--partition"),
        ("worker --id not/a/name --port 0 --dataset digits --labels 1", "'not/a/name' is not a valid node id"),
        ("worker --id alice --port 0 --dataset digit", "unknown dataset 'digit'; did you mean 'digits'"),
        ("worker --id alice --port 0 --dataset digits --labels 7-12", "--labels 7-12: label 12 is out of range; .*0-9"),
        ("worker --id alice --port 0 --dataset digits --labels 3-1", "--labels 3-1: the range 3-1 is reversed; use 1"),
        ("worker --id alice --port 0 --dataset digits --labels two", "--labels two: 'two' is not a label or"),
        (
            "worker --id alice --port 0 --dataset digits --partition iid --share 3/3",
            "--share 3/3: .* 3 must be below 3",
        ),
        ("worker --id alice --port 0 --dataset digits --partition iid --share 1", "--share 1: not of the form K/N"),
        ("worker --id alice --port 0 --dataset digits --partition iid", "--partition and --share require each other"),
        ("worker --id alice --port 0 --dataset digits --partition idd --share 0/3", "unknown partition 'idd'; .*iid"),
        (
            "worker --id a --port 0 --dataset digits --labels 1 --partition iid --share 0/3",
            "--labels cannot be combined with",
        ),
        ("worker --id a --port 0 --dataset digits --partition dirichlet:x --share 0/3", "partition dirichlet: .*'x'"),
        ("worker --id alice --port 0 --dataset digits --threads 0", "--threads: expected at least 1, got 0"),
        (
            "worker --id alice --port 0 --dataset digits --peer-timeout 0",
            "--peer-timeout: .* greater than 0, not (0|-3)",
        ),
        (
            "worker --id alice --port 0 --dataset digits --peer-timeout -3",
            "--peer-timeout: .* greater than 0, not (0|-3)",
        ),
        ("worker --id alice --port 0 --dataset digits --max-message-bytes 0", "--max-message-bytes: .*, not 0"),
        ("worker --id alice --port 0 --dataset digits --host no.such.host.invalid", "no.such.host.invalid"),
        ("worker --id alice --port 0 --plugin none.py", "--plugin none.py: Python file not found"),
        (
            "worker --id alice --port 0 --dataset digits --body-store file:///no/such/folder",
            "^fedws worker: file:///no/such/folder: directory not found$",
        ),
        (
            "evaluator --id testing --port 0 --dataset digits --body-store file:///proc",
            "^fedws evaluator: file:///proc: directory is not writable: ",
        ),
        ("evaluator --id testing --port 0 --dataset digit", "unknown dataset 'digit'; did you mean 'digits'"),
        ("demo --rounds 0 --dataset digits", "--rounds: .*, not 0"),
        ("demo --dataset digit", "unknown dataset 'digit'; did you mean 'digits'"),
        ("plot none", "none: metrics.jsonl not found; give the directory of a run"),
        ("plot", "RUN"),
    ],
)
def test_a_mistake_is_one_line(processes: Processes, argv: str, pattern: str) -> None:
    assert_bad(processes, argv, pattern)


PLANS = {
    "wrong key": ("round = 3", "unknown setting 'round'"),
    "former key": ("training_rounds = 3", "unknown setting 'training_rounds'"),
    "wrong type": ('rounds = "many"', "rounds: .*, not 'many'"),
    "wrong table": ("workers = 3", "workers: "),
    "wrong address": ('[workers]\nalice = "nowhere"', "workers.alice: 'nowhere' is not a valid address"),
    "syntax": ("rounds = = 3", "--plan plan.toml: .*line 1"),
    "no text": ("\udcff", "--plan plan.toml: not a text file in UTF-8; save it as UTF-8"),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_bad_plan_file_is_one_line(processes: Processes, name: str) -> None:
    text, pattern = PLANS[name]
    (processes.folder / "plan.toml").write_bytes(text.encode(errors="surrogateescape"))
    assert_bad(processes, "run --plan plan.toml", pattern)


def test_a_used_run_directory_is_kept_as_it_is(processes: Processes) -> None:
    (processes.folder / "used").mkdir()
    (processes.folder / "used" / "mine.txt").write_text("mine")
    assert_bad(processes, "run --dataset digits --run-dir used", "--run-dir used is not empty")
    assert_bad(processes, "run --dataset digits --run-dir used/mine.txt", "--run-dir used/mine.txt is a file")
    assert_bad(processes, "run --dataset digits --run-dir used/mine.txt/run", "cannot write --run-dir used/mine.txt/")
    assert (processes.folder / "used" / "mine.txt").read_text() == "mine"


REFUSED = {
    "empty": ({}, "the directory is empty"),
    "foreign": ({"mine.txt": "mine"}, r"run.json not found; no run has begun there"),
    "another program's": ({"run.json": '{"name": "other"}'}, "run.json was not written by fedws"),
    "newer": ({"run.json": '{"format": 999}'}, r"written by a newer fedws \(format 999; this one reads \d+\)"),
    "spoilt": ({"run.json": '{"format": '}, "cannot read run.json: .*line 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_directory_in_which_no_run_can_go_on_is_one_line(processes: Processes, name: str) -> None:
    files, pattern = REFUSED[name]
    folder = processes.folder / "old"
    folder.mkdir()
    for file, text in files.items():
        (folder / file).write_text(text)
    assert_bad(processes, "run --resume old", f"^fedws run: --resume old: {pattern}")
    assert {path.name: path.read_text() for path in folder.iterdir()} == files
    shutil.rmtree(folder)


def test_a_plugin_that_fails_is_one_line(processes: Processes) -> None:
    (processes.folder / "fails.py").write_text("import nothing_of_that_name\n")
    assert_bad(processes, "run --plugin fails.py", "--plugin fails.py: ModuleNotFoundError: No module named")
    (processes.folder / "wrong.py").write_text("def wrong(:\n")
    assert_bad(processes, "worker --id alice --port 0 --plugin wrong.py", "--plugin wrong.py: SyntaxError")


def test_a_port_in_use_is_one_line(processes: Processes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        pattern = f"port {port} on localhost is already in use; choose another with --port"
        assert_bad(processes, f"worker --id alice --port {port} --dataset digits", pattern)


def test_a_data_set_that_is_missing_or_empty_is_one_line(processes: Processes) -> None:
    """With no network to fetch it from, nothing is left of the attempt."""
    missing = processes.fork("worker", "--id", "alice", "--port", "0", "--data-dir", "missing")
    assert missing.end() == 2, missing.everything
    *told, last = missing.errors
    assert told == [f"downloading MNIST to {processes.folder / 'missing'}"]
    assert re.search(r"MNIST not found in \S+missing, and the download failed \(.*--data-dir.*--dataset digits", last)
    shutil.rmtree(processes.folder / "missing")
    write_idx(processes.folder / "empty" / "MNIST" / "raw", train=0)
    assert_bad(processes, "worker --id alice --port 0 --data-dir empty", "")
    for file in (processes.folder / "empty" / "MNIST" / "raw").iterdir():
        file.write_bytes(b"")
    assert_bad(processes, "worker --id alice --port 0 --data-dir empty", "")
    (processes.folder / "file").write_text("")
    assert_bad(processes, "worker --id alice --port 0 --data-dir file", "cannot use .*file for MNIST: ")


def test_a_worker_that_cannot_be_reached_is_waited_for_then_named(processes: Processes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"ws://localhost:{free.getsockname()[1]}"
    flags = ["--workers", f"dora={url}", "--evaluator", "none", "--dataset", "digits"]
    run = processes.fork("run", *flags, "--peer-timeout", "2", "--run-dir", "never")
    assert_one_line(run, rf"fedws run: not connected within 2 s: dora at {url} \(connection refused\)$", 1)
    assert [line.partition(" | ")[2] for line in run.lines] == [f"Waiting for dora at {url} (connection refused)"]
    assert not (processes.folder / "never").exists()
    again = processes.fork("run", *flags, "--peer-timeout", "0.2")
    assert_one_line(again, "dora at", 1)
    assert not list(processes.folder.glob("runs/*"))


def test_an_address_of_something_else_is_one_line(processes: Processes) -> None:
    """A port that accepts and says nothing, and one that is no websocket."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"ws://localhost:{mute.getsockname()[1]}"
        run = processes.fork("run", "--workers", f"dora={url}", "--evaluator", "none", "--peer-timeout", "1.5")
        assert_one_line(run, rf"not connected within 1\.5 s: dora at {url} \(no answer\)$", 1)
    assert not list(processes.folder.glob("runs/*"))


PLUGIN = """
import torch
import fedws

@fedws.register("model", "shaped")
def shaped():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, {classes}), torch.nn.LogSoftmax(1))
"""


def test_nodes_that_do_not_fit_the_run_are_one_line(processes: Processes) -> None:
    """Two with one id, an evaluator as a worker, other data, and a model of one name and two shapes."""
    for name, classes in (("theirs", 10), ("ours", 11)):
        (processes.folder / f"{name}.py").write_text(PLUGIN.format(classes=classes))
    urls = processes.nodes("--dataset", "digits", "--plugin", "theirs.py", nodes=("alice", "testing"))
    more = processes.nodes("--dataset", "digits", "--plugin", "theirs.py", nodes=("alice",))
    flags = ("--evaluator", "none", "--dataset", "digits", "--run-dir", "never")
    cases = [
        ((f"alice={urls['alice']}", f"bob={more['alice']}"), f"bob at {more['alice']}: this is alice, not bob"),
        ((f"testing={urls['testing']}",), f"testing at {urls['testing']}: it is an evaluator, not a worker"),
    ]
    for workers, text in cases:
        assert_one_line(processes.fork("run", "--workers", *workers, *flags), f"fedws run: {re.escape(text)}$", 1)
        assert not (processes.folder / "never").exists()
    other = processes.fork("run", *dialling({"alice": urls["alice"]}), "--dataset", "mnist", "--run-dir", "never")
    assert_one_line(other, f"alice at {urls['alice']}: it holds digits, not mnist; see --dataset", 1)
    assert not (processes.folder / "never").exists()
    ours = ("--model", "shaped", "--plugin", "ours.py", *dialling(urls), *flags[2:4], "--run-dir", "ours")
    text = r"alice: refused the request: model 'shaped' differs on alice: 1\.\w+ has shape .*11.*, expected .*10.*"
    assert_one_line(processes.fork("run", *ours), rf"round 1: .* {text}$", 1)
    good = processes.fork("run", "--model", "shaped", "--plugin", "theirs.py", *dialling(urls), "--dataset", "digits",
                          "--rounds", "1", "--run-dir", "good")  # fmt: skip
    assert good.end() == 0, good.everything
    assert len(safetensors.torch.load_file(processes.folder / "good" / "model.safetensors")) == 2
