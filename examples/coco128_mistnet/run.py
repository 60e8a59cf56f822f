#!/usr/bin/env python3
"""MistNet for an object detector, on this machine in one command: ``run.py [--data-dir D]``. See README.md."""

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
from edges import served
from ssdlite import SsdLite, detect, ssd, truth

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

HERE = Path(os.path.relpath(Path(__file__).parent))  # short, for the commands are shown
POLICY = HERE / "policy.toml"
PLUGINS = [word for name in ("coco128", "ssdlite") for word in ("--plugin", str(HERE / f"{name}.py"))]
ENCODING = "bits"
LEARNING = ["--loss", "ssd", "--optimizer", "adam", "--lr", "0.002", "--batch-size", "16"]


def parser() -> argparse.ArgumentParser:
    """The flags, all of which may be left out."""
    flags = argparse.ArgumentParser(description="Pretrain on 64 pictures, learn from noisy bits of 64 others, measure.")
    add = flags.add_argument
    add("--data-dir", metavar="D", help="the folder around coco128 (default: $FEDWS_DATA, or the user's cache)")
    add(
        "--split-at",
        metavar="LAYER",
        default="backbone.features.0.4",
        help="the last layer that edges run (%(default)s)",
    )
    add(
        "--epsilon", metavar="X", type=float, default=2.0, help="privacy of each bit; the policy allows 2 (%(default)s)"
    )
    add("--pretrain-epochs", metavar="N", type=int, default=20, help="(%(default)s)")
    add("--pretrained", metavar="FILE", help="pretrained.safetensors of an earlier time, instead of pretraining again")
    add("--server-epochs", metavar="N", type=int, default=20, help="(%(default)s)")
    add("--output", metavar="D", help="a folder that is not there yet (runs/<time>-coco128)")
    return flags


def main(flags: argparse.Namespace) -> int:
    """Pretrain, serve two edges, run, say what came of it."""
    if find_spec("pycocotools") is None:
        raise fedws.UsageError("pycocotools is not here: pip install 'fedws[examples]'")
    folder = download.resolve_data_dir(flags.data_dir)
    pictures = Coco128(folder, train=True)
    split_model(SsdLite(), flags.split_at)  # this and what the edges would refuse are told before minutes of work
    policy.load_policy(POLICY).check_features(ReleaseFormat.create(ENCODING, flags.epsilon, None).build_release(()))
    output = Path(flags.output) if flags.output else create_unique_directory("coco128")
    output.mkdir(parents=True, exist_ok=not flags.output)
    record, data = output / "run", ["--data-dir", str(folder)]
    file = Path(flags.pretrained or output / "pretrained.safetensors")
    if not flags.pretrained:
        public = ["--dataset", "coco128:public", "--epochs", str(flags.pretrain_epochs), "-o", str(file)]
        command(pretrain, *PLUGINS, *data, *public, *LEARNING)
    edges = ["--dataset", "coco128"]
    with served([*PLUGINS, *data, *edges], POLICY) as urls:
        where = [*edges, "--workers", *urls, "--evaluator", "none", "--run-dir", str(record)]
        mistnet = ["--algorithm", f"mistnet:labels=clear,encoding={ENCODING}", "--pretrained", str(file)]
        how = [
            "--split-at",
            flags.split_at,
            "--epsilon",
            str(flags.epsilon),
            "--server-epochs",
            str(flags.server_epochs),
        ]
        command(run, *PLUGINS, *where, *mistnet, *how, *LEARNING, show_resume_command=False)
    tell(flags.split_at, pictures, file, record)
    return 0


def command(module: ModuleType, *words: str, **more: bool) -> None:
    """Run a command of fedws in this process, after showing it. Raises FedwsError."""
    name = module.__name__.rpartition(".")[2]
    print(f"\n$ fedws {shlex.join([name, *words])}", flush=True)
    module.main(module.build_parser(f"fedws {name}").parse_args(words), **more)


def tell(cut: str, pictures: Coco128, file: Path, record: Path) -> None:
    """Score the edges' pictures before and after, and say what has left the edges and how private that is."""
    before = pretrained_file.load_pretrained(file).model
    after = safetensors.torch.load_file(record / "model.safetensors")
    lines = (record / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rounds = [line for line in map(json.loads, lines) if line["kind"] == "round"]
    first, last = rounds[0], rounds[-1]
    print(f"\nLoss on the edges' noisy bits: {first['loss']:.2f} in epoch 1, {last['loss']:.2f} in epoch {len(rounds)}")
    print(f"\n{f'On the {len(pictures)} pictures of the edges':<48}   loss    mAP50")
    for what, model, place in (
        ("pretrained on 64 others", before, ""),
        ("the same, its features as bits", before, cut),
        ("trained on the edges' noisy bits", after, cut),
    ):
        loss, precision = score(pictures, model, place)
        print(f"  {what:<46}{loss:>7.2f}  {100 * precision:>5.2f} %")
    print("The last row is scored on the pictures it learned from: it does not tell how the model does on others.")
    spent = FeatureRelease(ENCODING, last["epsilon"], last["label_epsilon"], last["num_features"])
    flipped = 1 / (1 + math.exp(last["epsilon"]))
    received, sent = (sum(line[f"bytes_{way}"] for line in rounds) / 1e6 for way in ("received", "sent"))
    print(f"\nCut after {cut}. From the edges came {received:.2f} MB, to them went {sent:.2f} MB.")
    print(spent.describe())
    print(
        f"Private: single bits. Each of the {spent.num_features} of a picture is false with a chance of {flipped:.1%}."
    )
    print(f"All of them together, of epsilon {spent.num_features * last['epsilon']:g}, may well show the picture.")
    print("Not private: every box and its class, which left as they are, and how many pictures an edge has.")


def score(pictures: Coco128, model: fedws.Tensors, split_at: str) -> tuple[float, float]:
    """Loss and mAP50 of a model on all pictures; where it is split, its features pass as the head was trained on
    them."""
    from precision import map50

    work = fedws.TaskContext("here", "coco128", pictures)
    scoring = fedws.EvalSettings(model="ssdlite", loss="ssd", dataset="coco128")
    if split_at:
        wrapped = {"wrapper": "encoded_split", "wrapper_options": {"split_at": split_at, "encoding": ENCODING}}
        scoring = scoring.model_copy(update=wrapped)
    module = work.build_eval_model(scoring, model).eval()
    with torch.inference_mode():
        outputs = torch.cat([module(pictures[index][0].unsqueeze(0)) for index in range(len(pictures))])
        loss = float(ssd()(outputs, pictures.boxes))
        return loss, map50(detect(outputs), [truth(rows) for rows in pictures.boxes])


if __name__ == "__main__":
    flags = parser().parse_args()
    signals.watch_interrupt()
    sys.exit(run_guarded("run.py", lambda: main(flags)))
