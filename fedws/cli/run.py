"""``fedws run``: the coordinator of one run."""

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
"""Flags that are options of the algorithm."""
_REPEATED_ON_RESUME = ("id", *SECURITY_FLAGS, *store_flags.STORE_FLAGS)
"""Flags that must be given again when a run continues."""
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
    """Return the parser of the command. Flags that are not given keep the plan file's value, or else the default."""
    flags = Parser(
        prog=prog,
        accept_former_names=is_demo_script,
        description="Coordinate one run of federated learning over workers that are being served.",
        argument_default=argparse.SUPPRESS,
    )
    add = flags.add_argument
    add("--workers", nargs="+", metavar="ID=URL", help="(alice, bob, charlie at ws://localhost:8777, 8778, 8779)")
    add(
        "--evaluator",
        metavar="ID=URL",
        help="or none, or an ID that joins (testing=ws://localhost:8780)",
    )
    add("--listen", metavar="URL", help="where nodes join by themselves: 0.0.0.0:9000, or mqtt://USER@BROKER")
    add("--expect-workers", nargs="+", metavar="ID", help="the workers that join there; with --listen")
    add(
        "--algorithm",
        metavar="NAME",
        help="fedavg (default), fedsgd, fedasync, fedbuff, mistnet; as NAME[:value][,key=value...]",
    )
    add("--split-at", metavar="LAYER", help="mistnet: the last layer that workers run, as features.2 or 4")
    add("--encoding", metavar="NAME", help="mistnet: how features leave: bits (default), sue, oue, floats, ...")
    add("--epsilon", metavar="X", help="mistnet: privacy of each bit that leaves; smaller is noisier (2)")
    add("--label-epsilon", metavar="X", help="mistnet: privacy of each label (4)")
    add(
        "--pretrained",
        dest="pretrained_path",
        metavar="FILE",
        help="mistnet: what 'fedws pretrain' wrote (else it trains on digits first)",
    )
    add(
        "--extractor",
        metavar="WORD",
        help="mistnet: one for all (default), or random: each worker draws one of several",
    )
    add(
        "--extractor-epochs",
        metavar="N",
        type=int,
        help="mistnet: epochs that workers train it first, on their data (0)",
    )
    add("--server-epochs", metavar="N", type=int, help="mistnet: epochs that the coordinator trains (40)")
    add("--max-feature-bytes", metavar="N", type=int, help="mistnet: most bytes stored of all workers (17179869184)")
    add("--aggregator", metavar="NAME", help="how results are combined (mean)")
    add("--weight-by-samples", action=argparse.BooleanOptionalAction, help="weigh workers by their samples")
    add("--rounds", metavar="N", type=int, help="rounds, or versions of an asynchronous model (40)")
    add("--sampler", metavar="NAME", help="which workers train: all (default), random:per_round=N, data_size, speed")
    add("--min-results", metavar="N", type=int, help="results that complete a round (all of its cohort)")
    add(
        "--over-selection",
        metavar="P",
        type=float,
        help="request (1 + P) times as many results, close the round with enough (0)",
    )
    add("--round-timeout", metavar="S", type=float, help="seconds after which a round closes with --min-results (none)")
    add(
        "--wait-for-workers",
        metavar="WORD",
        help="peer_timeout (default): end the run when too few have been connected for --peer-timeout; or forever",
    )
    add("--evaluate-every", metavar="N", type=int, help="evaluate when (round - 1) %% N == 0, and the last round (10)")
    add("--evaluate-worker-models", metavar="N", type=int, help="evaluate the models of at most N workers (10)")
    add("--model", metavar="NAME", help="(the data set's own, as mnist_cnn)")
    add("--loss", metavar="NAME", help="(nll)")
    add("--optimizer", metavar="NAME", help="(sgd)")
    add("--lr", metavar="X", type=float, help="learning rate of round 1 (0.1)")
    add("--lr-decay", metavar="X", type=float, help="its factor after each round; 1: a constant rate (0.98)")
    add("--batch-size", metavar="N", type=int, help="(32)")
    add("--test-batch-size", metavar="N", type=int, help="the evaluator's, at most 128 (128)")
    add(
        "--max-local-batches",
        metavar="N",
        type=int,
        help="most batches a worker trains in a round (10, or no limit with --epochs)",
    )
    add(
        "--epochs",
        metavar="N",
        type=int,
        help="whole epochs a worker trains in a round (without it at most 10 batches)",
    )
    add("--drop-last", action=argparse.BooleanOptionalAction, help="leave a short last batch of an epoch out")
    add("--cuda", action=argparse.BooleanOptionalAction, help="nodes use their GPU, where they have one")
    add("--seed", metavar="N", type=int, help="the run's seed (1)")
    add("--id", metavar="ID", help="the coordinator's name at the nodes, and in its certificate (coordinator)")
    add("--save-model", action="store_true", help="also save the trained model here, as MODEL.pt for torch.load")
    add("--initial-model", metavar="FILE", help="start from these weights, as model.safetensors of another run")
    add("--run-dir", metavar="D", help="the run's directory, new or empty (runs/<time>-<algorithm>)")
    add("--resume", metavar="RUN", help="continue the run in that directory; a finished one with more --rounds")
    add("--plan", metavar="FILE", help="settings as TOML, named as these flags with '_'; flags win")
    add_node_flags(flags, threads_help="torch's threads in the coordinator (1)")
    return flags


def main(arguments: argparse.Namespace, *, show_resume_command: bool = True) -> int:
    """Run, then say what came of it and where it is; if it fails, how it goes on, where its nodes stay."""
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
        os.environ["FEDWS_DATA"] = given["data_dir"]  # also for the process that trains for a coordinator
    credentials = build_credentials(arguments, given.get("id", ""))
    if "listen" in given:
        given["listen"] = complete_url(given["listen"], credentials)
    setting = store_flags.build_store_config(arguments)
    taken: list[Path] = []  # the run's directory, once it has one
    if "resume" in given:
        for name, flag in (("run_dir", "--run-dir"), ("plan", "--plan")):
            if name in given:
                raise UsageError(f"--resume goes on with a run's own plan and directory; leave {flag} out")
        directory, wanted = Path(given["resume"]), collect_settings(given)
        plan = name_flags_in_errors(partial(build_plan, merge_settings(load_plan_settings(directory), wanted)), given)
        taken.append(directory)
        work = partial(resume_run, directory, wanted, credentials=credentials)
    else:
        plan = name_flags_in_errors(partial(build_plan, collect_settings(given)), given)
        named_directory = Path(given["run_dir"]) if "run_dir" in given else None
        work = partial(run_plan, plan, named_directory, credentials=credentials, on_directory=taken.append)
    if plan.listen:
        for line in security_warnings("the coordinator", plan.listen, credentials):
            print(line)
    torch.set_num_threads(plan.threads)
    if "resume" in given and finished_rounds(directory) == plan.rounds:
        print("this run had come to its end already")
    else:
        load_plugins(plan.plugins)  # one may be the store's
        work = partial(work, body_store=store_flags.open_configured_store(setting, plan.peer_timeout, credentials))
    try:
        with ProgressBar(plan.rounds) as progress:
            result = run_loop(work(observers=[progress.update]))
    except (RunFailed, OSError, KeyboardInterrupt):
        for path in taken:
            if show_resume_command and any((path / CHECKPOINTS_DIR).glob("checkpoint-*.safetensors")):
                print(f"go on with: fedws run --resume {shlex.quote(str(path))}{_format_repeated_flags(given)}")
        raise
    if result.accuracy is not None:
        last = result.evaluations()[-1]["round"]
        print(f"Federated accuracy after round {last}: {100 * result.accuracy:.2f}%")
    elif plan.evaluator:
        scores = result.evaluations()
        if scores:  # of a model that does not classify
            print(f"Federated loss after round {scores[-1]['round']}: {format_loss(scores[-1]['loss'])}")
        else:
            print("The federated model was not scored; the log says why")
    for name, file in (("log", LOG_FILE), ("plot", CURVES_FILE), ("model", MODEL_FILE)):
        print(f"{name:6}{result.directory / file}")
    if given.get("save_model"):
        print(f"{'saved':6}{save_model(result.model, plan.model or loading.get_default_model(plan.dataset))}")
    return 0


def _format_repeated_flags(flags: dict[str, Any]) -> str:
    """The flags of a run that its plan does not hold, as they were given."""
    found = ""
    for name in _REPEATED_ON_RESUME:
        value = flags.get(name)
        if value is not None and value is not False:
            found += f" --{name.replace('_', '-')}" + ("" if value is True else f" {shlex.quote(str(value))}")
    return found


def collect_settings(flags: dict[str, Any]) -> dict[str, Any]:
    """The plan's settings: the plan file's, then the flags'. Raises UsageError."""
    from fedws.core.plan import Plan, read_plan_file

    found = read_plan_file(Path(flags["plan"])) if "plan" in flags else {}
    found.update({key: value for key, value in flags.items() if key not in _NON_PLAN_FLAGS})
    chosen = [f"{name}={flags[name]}" for name in _ALGORITHM_OPTIONS if name in flags]
    if chosen:
        found["algorithm"] = ",".join([found.get("algorithm", Plan.model_fields["algorithm"].default), *chosen])
    if "server_epochs" in flags:
        if "rounds" in flags:
            raise UsageError("--server-epochs and --rounds are the same; leave one out")
        if flags["server_epochs"] < 1:
            raise UsageError(f"--server-epochs {flags['server_epochs']}: at least 1")
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
    """``ID=URL ...`` as a mapping. Raises UsageError for a text of another form and for an id given twice.

    >>> parse_node_urls("--workers", ["alice=ws://a:1", "bob=ws://b:1"])
    {'alice': 'ws://a:1', 'bob': 'ws://b:1'}
    """
    found: dict[str, str] = {}
    for text in ",".join(texts).split(","):
        node, equals, url = text.partition("=")
        if not equals:
            shown = repr(text) if "@" not in text else "one of them"  # it may be the end of a password
            raise UsageError(f"{flag}: {shown} is not ID=URL, as alice=ws://localhost:8777")
        if node in found:
            raise UsageError(f"{flag}: {node} is named twice; every node has an id of its own")
        found[node] = url
    return found


def save_model(model: Any, name: str) -> Path:
    """Save a state dict in the working directory, as the demo did; ``torch.load(..., weights_only=True)`` reads it."""
    import torch

    from fedws.core import private_files

    path = Path(f"{name.partition(':')[0]}.pt")
    try:
        private_files.create_empty_file(path)
        torch.save(dict(model), path)
    except (OSError, RuntimeError) as error:
        raise UsageError(f"--save-model: {path} cannot be written: {str(error).splitlines()[0]}") from None
    return path
