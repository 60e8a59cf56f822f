"""The command ``fedws pretrain``, which trains the initial extractor and head of MistNet on public data."""

import argparse
from collections.abc import Iterator
from types import MappingProxyType
from typing import TYPE_CHECKING

from fedws.cli.parser import Parser, name_flags_in_errors
from fedws.cli.shared_flags import add_local_flags

if TYPE_CHECKING:
    from fedws.core.plan import Plan
    from fedws.core.tensors import Tensors
    from fedws.data.base import Dataset
    from fedws.split_learning.pretrained_file import PretrainedInfo, PretrainedModel


def build_parser(prog: str) -> Parser:
    """Return the parser of the command."""
    flags = Parser(
        prog=prog, description="Train a model on public data on this machine, and write the initial model of MistNet."
    )
    add = flags.add_argument
    add(
        "--dataset",
        metavar="NAME",
        default="digits",
        help="public data set: digits (default), mnist, cifar10 or your own",
    )
    add("--model", metavar="NAME", help="model to train (the default of the data set)")
    add("--epochs", metavar="N", type=int, default=20, help="number of epochs (20)")
    add(
        "--num-extractors",
        metavar="N",
        type=int,
        default=1,
        help="number of extractors, up to 16; more than one for --extractor random (1)",
    )
    add(
        "--split-at",
        metavar="LAYER",
        help="last layer of several extractors, such as features.2 or 4 (the default of the model)",
    )
    add("--loss", metavar="NAME", default="nll", help="loss function (nll)")
    add("--optimizer", metavar="NAME", default="sgd", help="optimizer (sgd)")
    add("--lr", metavar="X", type=float, default=0.1, help="learning rate of epoch 1 (0.1)")
    add(
        "--lr-decay",
        metavar="X",
        type=float,
        default=0.98,
        help="factor of the learning rate after each epoch; 1 keeps it constant (0.98)",
    )
    add("--batch-size", metavar="N", type=int, default=32, help="number of samples in a batch (32)")
    add("--drop-last", action="store_true", help="skip the last batch of an epoch if it is short")
    add("--seed", metavar="N", type=int, default=1, help="seed of the weights and of the training (1)")
    add("--threads", metavar="N", type=int, default=1, help="number of threads of torch (1)")
    add("--cuda", action="store_true", help="use the GPU if there is one")
    add_local_flags(flags)
    add("-o", "--output", metavar="FILE", help="file to write (MODEL-DATASET.safetensors)")
    return flags


def main(arguments: argparse.Namespace) -> int:
    """Train the model, print its loss and accuracy, and write it to the file."""
    from pathlib import Path

    from fedws.core.errors import UsageError
    from fedws.core.plan import build_plan
    from fedws.core.plugins import load_plugins
    from fedws.data import loading
    from fedws.protocol import sendable_model
    from fedws.split_learning import extractor_pool, pretrained_file, pretraining
    from fedws.training import model_building

    load_plugins(arguments.plugins or ())
    name = arguments.model or loading.get_default_model(arguments.dataset)
    chosen = {
        key: getattr(arguments, key)
        for key in ("dataset", "loss", "optimizer", "lr", "lr_decay", "batch_size", "drop_last", "seed", "cuda")
    }
    if arguments.epochs < 1:
        raise UsageError(f"--epochs: expected at least 1, got {arguments.epochs}")
    if not 1 <= arguments.num_extractors <= extractor_pool.MAX_EXTRACTORS:
        raise UsageError(
            f"--num-extractors: expected 1 to {extractor_pool.MAX_EXTRACTORS}, got {arguments.num_extractors}"
        )
    given = {**chosen, "threads": arguments.threads}
    plan = name_flags_in_errors(lambda: build_plan({**given, "model": name, "rounds": arguments.epochs}), given)
    file = Path(arguments.output or f"{name.partition(':')[0]}-{plan.dataset.partition(':')[0]}.safetensors")
    if not file.absolute().parent.is_dir():  # report the error before training
        raise UsageError(f"cannot write {file}: directory {str(file.parent)!r} not found; choose another --output")
    sendable_model.check_sendable(name, model_building.build_model(name, plan.seed))
    data, held_out = (loading.load_dataset(plan.dataset, arguments.data_dir, train) for train in (True, False))
    several = arguments.num_extractors > 1
    cut = _resolve_split_point(name, arguments.split_at, needed=several)
    others = pretraining.build_extractors(name, cut, arguments.num_extractors - 1) if several else {}
    tensors = pretrain_model(plan, data, cut, others)
    found = pretrained_file.build_pretrained(tensors, _build_info(plan, data, tensors, cut if several else ""))
    for line in _evaluate_extractors(plan, held_out, found):
        print(line)
    pretrained_file.save_pretrained(file, found)
    flags = "mistnet" if found.info.num_classes else "mistnet:labels=clear"
    flags += f" --split-at {cut}" if arguments.split_at or several else ""
    flags += " --extractor random" if several else ""
    flags += f" --loss {plan.loss}" if plan.loss != "nll" else ""
    flags += "".join(f" --plugin {plugin}" for plugin in arguments.plugins or ())
    print(f"use it with: fedws run --algorithm {flags} --model {name} --pretrained {file}")
    return 0


def _resolve_split_point(model: str, split_at: str | None, *, needed: bool) -> str:
    """Return the path of the layer after which the model is split, by default the model's own split point.

    Raise UsageError if the given split point is not valid, or if the model has no default but one is needed.
    """
    from fedws.core import registry
    from fedws.core.errors import UsageError
    from fedws.core.spec import Spec
    from fedws.split_learning.model_split import find_split_points, resolve_split_point
    from fedws.training import model_building

    own = split_at or getattr(registry.find_piece("model", Spec.parse(model).name), "split_at", "")
    if not split_at and not needed:
        return str(own)
    module = model_building.build_model(model, 0)
    if not own:
        split_points = ", ".join(find_split_points(module))
        raise UsageError(
            f"--split-at is required: model {model!r} has no default split point; available: {split_points}"
        )
    return resolve_split_point(module, own)


def _build_info(plan: "Plan", data: "Dataset", tensors: "Tensors", split_at: str) -> "PretrainedInfo":
    """Return the description of the pretrained model that is stored with it."""
    from fedws.split_learning import pretrained_file, pretraining
    from fedws.training import model_building, task_context

    work = task_context.TaskContext("public", plan.dataset, data)
    settings = pretraining.PretrainSettings(**plan.train_settings().model_dump(), clear_labels=True)
    names = model_building.build_model(plan.model, 0).state_dict()
    module = work.build_model(plan.model, {name: tensors[name] for name in names})
    classes, label = pretraining.inspect_labels(module, work, settings)
    return pretrained_file.PretrainedInfo(
        plan.model, plan.dataset, classes, pretraining.input_shape(work), plan.rounds, label, split_at
    )


def _evaluate_extractors(plan: "Plan", data: "Dataset", pretrained: "PretrainedModel") -> Iterator[str]:
    """Yield a line with the accuracy or loss on held-out data for each extractor."""
    from fedws.split_learning import extractor_pool
    from fedws.training import evaluation, task_context

    work = task_context.TaskContext("public", plan.dataset, data)
    several = extractor_pool.unpack_state_dicts(pretrained.extra_extractors)
    for number, own in enumerate([{}, *several]):
        module = work.build_model(plan.model, {**pretrained.model, **own})
        score = evaluation.evaluate(module, work, plan.eval_settings())
        extractor = f" with extractor {number + 1}" if several else ""
        quality = f"accuracy {100 * score.accuracy:.2f} %" if score.accuracy is not None else f"loss {score.loss:.4f}"
        yield f"{quality} on {score.num_examples} test samples of {plan.dataset}{extractor}"


def pretrain_model(
    plan: "Plan", data: "Dataset", split_at: str = "", extra_extractors: "Tensors" = MappingProxyType({})
) -> "Tensors":
    """Train the plan's model on ``data``, print the loss of each epoch, and return the tensors.

    ``data`` is the plan's data set, and each round of the plan is one epoch. ``extra_extractors`` holds the joined
    tensors of further extractors up to ``split_at``. They are trained as well, and are part of the result. Raise
    UsageError if the samples do not fit the model.
    """
    import torch

    from fedws.core import seeds
    from fedws.core.errors import TaskError, UsageError
    from fedws.core.task_settings import UNLIMITED_BATCHES
    from fedws.split_learning import pretraining
    from fedws.training import model_building, task_context, task_warnings

    torch.set_num_threads(plan.threads)
    module = model_building.build_model(plan.model, plan.seed)
    work = task_context.TaskContext("public", plan.dataset, data)
    settings = pretraining.PretrainSettings(
        **{**plan.train_settings().model_dump(), "max_local_batches": UNLIMITED_BATCHES}, split_at=split_at
    )
    tensors: Tensors = {**module.state_dict(), **extra_extractors}
    try:
        with torch.inference_mode():
            module.eval()(pretraining.first_sample(work)[0])
    except TaskError as error:
        raise UsageError(str(error)) from None
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"the samples of {plan.dataset} do not fit the model {plan.model}: {error}") from error
    for epoch in range(1, plan.rounds + 1):
        seed, extra = seeds.request_seed(plan.seed, "public", epoch), {key: tensors[key] for key in extra_extractors}
        found, tensors = pretraining.pretrain_epoch(module, extra, work, settings.for_round(epoch), seed)
        print(f"epoch {epoch}/{plan.rounds}: loss {found.loss:.4f}", flush=True)
        if epoch == 1 and work.warnings:
            print(*task_warnings.get_log_lines({"warnings": work.warnings}), sep="\n", flush=True)
    return tensors
