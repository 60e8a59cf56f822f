#!/usr/bin/env python3
"""The script ``run.py``, which trains an object detector with MistNet on this machine. See README.md."""

import argparse
import json
import math
import os
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import safetensors.torch
import torch
from coco128 import Coco128
from edges import run_edges
from ssdlite import SsdLite, decode_target, detect, ssd

import fedws
from fedws.cli import pretrain, run, signals
from fedws.cli.console import run_guarded
from fedws.data import download
from fedws.privacy import policy
from fedws.privacy.feature_release import FeatureRelease
from fedws.recording.directory_creation import create_unique_directory
from fedws.split_learning import pretrained_file
from fedws.split_learning.model_split import split_model
from fedws.split_learning.release_format import ReleaseFormat

HERE = Path(os.path.relpath(Path(__file__).parent))  # relative, so that the printed commands are short
POLICY = HERE / "policy.toml"
PLUGINS = [word for name in ("coco128", "ssdlite") for word in ("--plugin", str(HERE / f"{name}.py"))]
ENCODING = "bits"
TRAINING_FLAGS = ["--loss", "ssd", "--optimizer", "adam", "--lr", "0.002", "--batch-size", "16"]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the script. All flags are optional."""
    flags = argparse.ArgumentParser(
        description="Pretrain on 64 pictures, train on noisy bits of 64 other pictures, and evaluate."
    )
    add = flags.add_argument
    add("--data-dir", metavar="D", help="directory that contains coco128 ($FEDWS_DATA, or the user's cache)")
    add(
        "--split-at",
        metavar="LAYER",
        default="backbone.features.0.4",
        help="last layer that the edges run (%(default)s)",
    )
    add(
        "--epsilon", metavar="X", type=float, default=2.0, help="epsilon of each bit; the policy allows 2 (%(default)s)"
    )
    add("--pretrain-epochs", metavar="N", type=int, default=20, help="number of epochs of pretraining (%(default)s)")
    add("--pretrained", metavar="FILE", help="pretrained.safetensors of an earlier run, which replaces pretraining")
    add("--server-epochs", metavar="N", type=int, default=20, help="number of epochs at the coordinator (%(default)s)")
    add("--output", metavar="D", help="new directory for the results (runs/<time>-coco128)")
    return flags


def main(flags: argparse.Namespace) -> int:
    """Pretrain, run two edges and the coordinator, and print the results."""
    if find_spec("pycocotools") is None:
        raise fedws.UsageError("pycocotools not found; install it with: pip install 'fedws[examples]'")
    folder = download.resolve_data_dir(flags.data_dir)
    pictures = Coco128(folder, train=True)
    # Check the split point and the policy of the edges before minutes of work.
    split_model(SsdLite(), flags.split_at)
    policy.load_policy(POLICY).check_features(ReleaseFormat.create(ENCODING, flags.epsilon, None).build_release(()))
    output = Path(flags.output) if flags.output else create_unique_directory("coco128")
    output.mkdir(parents=True, exist_ok=not flags.output)
    run_dir, data = output / "run", ["--data-dir", str(folder)]
    file = Path(flags.pretrained or output / "pretrained.safetensors")
    if not flags.pretrained:
        public = ["--dataset", "coco128:public", "--epochs", str(flags.pretrain_epochs), "-o", str(file)]
        run_command(pretrain, *PLUGINS, *data, *public, *TRAINING_FLAGS)
    edges = ["--dataset", "coco128"]
    with run_edges([*PLUGINS, *data, *edges], POLICY) as urls:
        nodes = [*edges, "--workers", *urls, "--evaluator", "none", "--run-dir", str(run_dir)]
        algorithm = ["--algorithm", f"mistnet:labels=clear,encoding={ENCODING}", "--pretrained", str(file)]
        settings = [
            "--split-at",
            flags.split_at,
            "--epsilon",
            str(flags.epsilon),
            "--server-epochs",
            str(flags.server_epochs),
        ]
        run_command(run, *PLUGINS, *nodes, *algorithm, *settings, *TRAINING_FLAGS, show_resume_command=False)
    print_results(flags.split_at, pictures, file, run_dir)
    return 0


def run_command(module: ModuleType, *words: str, **options: bool) -> None:
    """Print a command of fedws and run it in this process. Raise FedwsError if it fails."""
    name = module.__name__.rpartition(".")[2]
    print(f"\n$ fedws {shlex.join([name, *words])}", flush=True)
    module.main(module.build_parser(f"fedws {name}").parse_args(words), **options)


def print_results(split_at: str, pictures: Coco128, file: Path, run_dir: Path) -> None:
    """Evaluate the models before and after training, and print the results, the traffic and the privacy cost."""
    before = pretrained_file.load_pretrained(file).model
    after = safetensors.torch.load_file(run_dir / "model.safetensors")
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rounds = [line for line in map(json.loads, lines) if line["kind"] == "round"]
    first, last = rounds[0], rounds[-1]
    print(f"\nLoss on the noisy bits: {first['loss']:.2f} in epoch 1, {last['loss']:.2f} in epoch {len(rounds)}")
    print(f"\n{f'On the {len(pictures)} pictures of the edges':<48}   loss    mAP50")
    for name, model, layer in (
        ("pretrained on 64 other pictures", before, ""),
        ("the same model, with features as noisy bits", before, split_at),
        ("trained on the noisy bits of the edges", after, split_at),
    ):
        loss, precision = evaluate(pictures, model, layer)
        print(f"  {name:<46}{loss:>7.2f}  {100 * precision:>5.2f} %")
    print("The last row is evaluated on the training pictures. It does not show the quality on other pictures.")
    release = FeatureRelease(ENCODING, last["epsilon"], last["label_epsilon"], last["num_features"])
    flipped = 1 / (1 + math.exp(last["epsilon"]))
    received, sent = (sum(line[f"bytes_{way}"] for line in rounds) / 1e6 for way in ("received", "sent"))
    print(f"\nSplit after {split_at}. The edges uploaded {received:.2f} MB and downloaded {sent:.2f} MB.")
    print(release.describe())
    print(
        f"Private: single bits. Each of the {release.num_features} bits of a picture is flipped with a probability of "
        f"{flipped:.1%}."
    )
    print(f"All bits of a picture together have epsilon {release.num_features * last['epsilon']:g} and may reveal it.")
    print("Not private: every box and its class, which are sent without noise, and the number of pictures of an edge.")


def evaluate(pictures: Coco128, model: fedws.Tensors, split_at: str) -> tuple[float, float]:
    """Return the loss and the mAP50 of a model on all pictures.

    If ``split_at`` is not empty, the features are encoded there, as in the training of the head.
    """
    from precision import map50

    context = fedws.TaskContext("local", "coco128", pictures)
    settings = fedws.EvalSettings(model="ssdlite", loss="ssd", dataset="coco128")
    if split_at:
        wrapper = {"wrapper": "encoded_split", "wrapper_options": {"split_at": split_at, "encoding": ENCODING}}
        settings = settings.model_copy(update=wrapper)
    module = context.build_eval_model(settings, model).eval()
    with torch.inference_mode():
        outputs = torch.cat([module(pictures[index][0].unsqueeze(0)) for index in range(len(pictures))])
        loss = float(ssd()(outputs, pictures.boxes))
        return loss, map50(detect(outputs), [decode_target(rows) for rows in pictures.boxes])


if __name__ == "__main__":
    flags = build_parser().parse_args()
    signals.watch_interrupt()
    sys.exit(run_guarded("run.py", lambda: main(flags)))
