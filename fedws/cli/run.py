"""The command ``fedws run``, which runs the coordinator of one run."""

import argparse
import os
import shlex
from functools import partial
from pathlib import Path
from typing import Any

from fedws.cli import store_flags
from fedws.cli.parser import Parser, name_flags_in_errors
from fedws.cli.security_flags import SECURITY_FLAGS, build_credentials, complete_url, security_warnings
from fedws.cli.shared_flags import add_node_flags
from fedws.core.errors import RunFailed, UsageError
from fedws.recording.run_layout import CHECKPOINTS_DIR, CURVES_FILE, LOG_FILE, MODEL_FILE

_ALGORITHM_OPTIONS = (
    "split_at",
    "encoding",
    "epsilon",
    "label_epsilon",
    "pretrained_path",
    "extractor",
    "extractor_epochs",
)
"""Flags that set options of the algorithm."""
_REPEATED_ON_RESUME = ("id", *SECURITY_FLAGS, *store_flags.STORE_FLAGS)
"""Flags that must be given again to resume a run."""
_NON_PLAN_FLAGS = {
    *_ALGORITHM_OPTIONS,
    *_REPEATED_ON_RESUME,
    "server_epochs",
    "plan",
    "run_dir",
    "resume",
    "save_model",
    "verbose",
    "data_dir",
}
"""Flags that are not settings of the plan."""


def build_parser(prog: str, *, is_demo_script: bool = False) -> Parser:
    """Return the parser of the command.

    A flag that is not given keeps the value in the plan file, or else its default.
    """
    flags = Parser(
        prog=prog,
        accept_former_names=is_demo_script,
        description="Coordinate one run of federated learning with workers that are already serving.",
        argument_default=argparse.SUPPRESS,
    )
    add = flags.add_argument
    add("--workers", nargs="+", metavar="ID=URL", help="workers (alice, bob, charlie at ws://localhost:8777 to 8779)")
    add(
        "--evaluator",
        metavar="ID=URL",
        help="evaluator, or ID of one that joins, or none (testing=ws://localhost:8780)",
    )
    add("--listen", metavar="URL", help="address at which nodes join: 0.0.0.0:9000, or mqtt://USER@BROKER")
    add("--expect-workers", nargs="+", metavar="ID", help="with --listen: workers that join there")
    add(
        "--algorithm",
        metavar="NAME",
        help="algorithm: fedavg (default), fedsgd, fedasync, fedbuff or mistnet, as NAME[:value][,key=value...]",
    )
    add("--split-at", metavar="LAYER", help="mistnet: last layer that workers run, such as features.2 or 4")
    add("--encoding", metavar="NAME", help="mistnet: encoding of features: bits (default), sue, oue, floats, ...")
    add("--epsilon", metavar="X", help="mistnet: epsilon of each bit; smaller values add more noise (2)")
    add("--label-epsilon", metavar="X", help="mistnet: epsilon of each label (4)")
    add(
        "--pretrained",
        dest="pretrained_path",
        metavar="FILE",
        help="mistnet: file that fedws pretrain wrote (without it, the run first trains on digits)",
    )
    add(
        "--extractor",
        metavar="WORD",
        help="mistnet: one (default) for all workers, or random: each worker draws one of several",
    )
    add("--extractor-epochs", metavar="N", type=int, help="mistnet: epochs for which workers first train it (0)")
    add("--server-epochs", metavar="N", type=int, help="mistnet: epochs for which the coordinator trains (40)")
    add(
        "--max-feature-bytes",
        metavar="N",
        type=int,
        help="mistnet: maximum size in bytes of the stored features of all workers (17179869184)",
    )
    add("--aggregator", metavar="NAME", help="rule that combines results (mean)")
    add("--weight-by-samples", action=argparse.BooleanOptionalAction, help="weight workers by their number of samples")
    add("--rounds", metavar="N", type=int, help="number of rounds, or of versions of an asynchronous model (40)")
    add("--sampler", metavar="NAME", help="workers that train: all (default), random:per_round=N, data_size, speed")
    add("--min-results", metavar="N", type=int, help="number of results that complete a round (all of its cohort)")
    add(
        "--over-selection",
        metavar="P",
        type=float,
        help="request (1 + P) times as many results, and close the round with enough of them (0)",
    )
    add("--round-timeout", metavar="S", type=float, help="seconds after which a round closes with --min-results (none)")
    add(
        "--wait-for-workers",
        metavar="WORD",
        help="peer_timeout (default), which ends the run if too few are connected for --peer-timeout, or forever",
    )
    add("--evaluate-every", metavar="N", type=int, help="evaluate if (round - 1) %% N == 0, and the last round (10)")
    add("--evaluate-worker-models", metavar="N", type=int, help="maximum number of evaluated worker models (10)")
    add("--model", metavar="NAME", help="model to train (the default of the data set, such as mnist_cnn)")
    add("--loss", metavar="NAME", help="loss function (nll)")
    add("--optimizer", metavar="NAME", help="optimizer (sgd)")
    add("--lr", metavar="X", type=float, help="learning rate of round 1 (0.1)")
    add("--lr-decay", metavar="X", type=float, help="factor of the rate after each round; 1 for a constant rate (0.98)")
    add("--batch-size", metavar="N", type=int, help="number of samples in a batch (32)")
    add("--test-batch-size", metavar="N", type=int, help="batch size of the evaluator, at most 128 (128)")
    add(
        "--max-local-batches",
        metavar="N",
        type=int,
        help="maximum number of batches of a worker in a round (10; unlimited with --epochs)",
    )
    add("--epochs", metavar="N", type=int, help="epochs of a worker in a round (without it, at most 10 batches)")
    add("--drop-last", action=argparse.BooleanOptionalAction, help="skip the last batch of an epoch if it is short")
    add("--cuda", action=argparse.BooleanOptionalAction, help="use the GPU of each node that has one")
    add("--seed", metavar="N", type=int, help="seed of the run (1)")
    add("--id", metavar="ID", help="id of the coordinator, for the nodes and in its certificate (coordinator)")
    add("--save-model", action="store_true", help="also save the model here, as MODEL.pt for torch.load")
    add("--initial-model", metavar="FILE", help="initial weights, such as model.safetensors of another run")
    add("--run-dir", metavar="D", help="directory of the run, new or empty (runs/<time>-<algorithm>)")
    add("--resume", metavar="RUN", help="directory of a run to continue; a finished one needs more --rounds")
    add("--plan", metavar="FILE", help="TOML file with settings, named like flags with '_'; flags take precedence")
    add_node_flags(flags, threads_help="number of threads of torch in the coordinator (1)")
    return flags


def main(arguments: argparse.Namespace, *, show_resume_command: bool = True) -> int:
    """Do the run, then print its result and the paths of its files.

    If the run fails after its first checkpoint, print the command that resumes it. ``fedws demo`` ends its nodes and
    therefore unsets ``show_resume_command``.
    """
    import torch

    from fedws.cli.console import run_loop, set_up_logging
    from fedws.cli.progress import ProgressBar
    from fedws.coordinator.run import resume_run, run_plan
    from fedws.core.plan import build_plan
    from fedws.core.plugins import load_plugins
    from fedws.core.resume_rules import merge_settings
    from fedws.data import loading
    from fedws.recording.evaluation_lines import format_loss
    from fedws.recording.run_info import finished_rounds, load_plan_settings

    given = vars(arguments)
    set_up_logging(given.get("verbose", False))
    if "data_dir" in given:
        os.environ["FEDWS_DATA"] = given["data_dir"]  # for the server trainer, which is another process
    credentials = build_credentials(arguments, given.get("id", ""))
    if "listen" in given:
        given["listen"] = complete_url(given["listen"], credentials)
    store_config = store_flags.build_store_config(arguments)
    directories: list[Path] = []  # the directory of the run, once it exists
    if "resume" in given:
        for name, flag in (("run_dir", "--run-dir"), ("plan", "--plan")):
            if name in given:
                raise UsageError(
                    f"--resume cannot be combined with {flag}: it uses the plan and directory of the run; remove {flag}"
                )
        directory, changes = Path(given["resume"]), collect_settings(given)
        plan = name_flags_in_errors(partial(build_plan, merge_settings(load_plan_settings(directory), changes)), given)
        directories.append(directory)
        work = partial(resume_run, directory, changes, credentials=credentials)
    else:
        plan = name_flags_in_errors(partial(build_plan, collect_settings(given)), given)
        named_directory = Path(given["run_dir"]) if "run_dir" in given else None
        work = partial(run_plan, plan, named_directory, credentials=credentials, on_directory=directories.append)
    if plan.listen:
        for line in security_warnings("the coordinator", plan.listen, credentials):
            print(line)
    torch.set_num_threads(plan.threads)
    if "resume" in given and finished_rounds(directory) == plan.rounds:
        print("the run is already finished")
    else:
        load_plugins(plan.plugins)  # one may define the store
        work = partial(work, body_store=store_flags.open_configured_store(store_config, plan.peer_timeout, credentials))
    try:
        with ProgressBar(plan.rounds) as progress:
            result = run_loop(work(observers=[progress.update]))
    except (RunFailed, OSError, KeyboardInterrupt):
        for path in directories:
            if show_resume_command and any((path / CHECKPOINTS_DIR).glob("checkpoint-*.safetensors")):
                print(f"continue with: fedws run --resume {shlex.quote(str(path))}{_format_repeated_flags(given)}")
        raise
    if result.accuracy is not None:
        last = result.evaluations()[-1]["round"]
        print(f"Federated accuracy after round {last}: {100 * result.accuracy:.2f}%")
    elif plan.evaluator:
        evaluations = result.evaluations()
        if evaluations:  # the model is not a classifier
            print(f"Federated loss after round {evaluations[-1]['round']}: {format_loss(evaluations[-1]['loss'])}")
        else:
            print("The federated model was not evaluated; the log contains the reason")
    for name, file in (("log", LOG_FILE), ("plot", CURVES_FILE), ("model", MODEL_FILE)):
        print(f"{name:6}{result.directory / file}")
    if given.get("save_model"):
        print(f"{'saved':6}{save_model(result.model, plan.model or loading.get_default_model(plan.dataset))}")
    return 0


def _format_repeated_flags(flags: dict[str, Any]) -> str:
    """Return the given flags that are not part of the plan, as the user would type them."""
    found = ""
    for name in _REPEATED_ON_RESUME:
        value = flags.get(name)
        if value is not None and value is not False:
            found += f" --{name.replace('_', '-')}" + ("" if value is True else f" {shlex.quote(str(value))}")
    return found


def collect_settings(flags: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the plan file, replaced by those of the flags.

    Raise UsageError for a plan file that cannot be read, and for flags that are wrong or cannot be combined.
    """
    from fedws.core.plan import Plan, read_plan_file

    found = read_plan_file(Path(flags["plan"])) if "plan" in flags else {}
    found.update({key: value for key, value in flags.items() if key not in _NON_PLAN_FLAGS})
    options = [f"{name}={flags[name]}" for name in _ALGORITHM_OPTIONS if name in flags]
    if options:
        found["algorithm"] = ",".join([found.get("algorithm", Plan.model_fields["algorithm"].default), *options])
    if "server_epochs" in flags:
        if "rounds" in flags:
            raise UsageError(
                "--server-epochs cannot be combined with --rounds, which has the same meaning; remove one of them"
            )
        if flags["server_epochs"] < 1:
            raise UsageError(f"--server-epochs: expected at least 1, got {flags['server_epochs']}")
        found["rounds"] = flags["server_epochs"]
    if "expect_workers" in flags:
        found["expect_workers"] = [name for text in flags["expect_workers"] for name in text.split(",") if name]
    if "workers" in flags:
        found["workers"] = parse_node_urls("--workers", flags["workers"])
    if "evaluator" in flags and flags["evaluator"] == "none":
        found["evaluator"] = {}
    elif "evaluator" in flags and "=" in flags["evaluator"]:
        found["evaluator"] = parse_node_urls("--evaluator", [flags["evaluator"]])
    return found


def parse_node_urls(flag: str, texts: list[str]) -> dict[str, str]:
    """Parse ``ID=URL ...`` and return the URLs by id.

    Raise UsageError for a text of another form and for a duplicate id.

    >>> parse_node_urls("--workers", ["alice=ws://a:1", "bob=ws://b:1"])
    {'alice': 'ws://a:1', 'bob': 'ws://b:1'}
    """
    found: dict[str, str] = {}
    for text in ",".join(texts).split(","):
        node, equals, url = text.partition("=")
        if not equals:
            shown = repr(text) if "@" not in text else "a value"  # the text may be the end of a password
            raise UsageError(
                f"{flag}: {shown} is not a valid node; use the form ID=URL, such as alice=ws://localhost:8777"
            )
        if node in found:
            raise UsageError(f"{flag}: duplicate node {node!r}; give every node its own id")
        found[node] = url
    return found


def save_model(model: Any, name: str) -> Path:
    """Save a state dict in the working directory, as the original demo did, and return the path.

    ``torch.load(..., weights_only=True)`` reads the file. Raise UsageError if it cannot be written.
    """
    import torch

    from fedws.core import private_files

    path = Path(f"{name.partition(':')[0]}.pt")
    try:
        private_files.create_empty_file(path)
        torch.save(dict(model), path)
    except (OSError, RuntimeError) as error:
        raise UsageError(f"--save-model: cannot write {path}: {str(error).splitlines()[0]}") from None
    return path
