"""``fedws pretrain``: trains a model on public data, for MistNet's extractor and head to begin with."""

import argparse
from typing import TYPE_CHECKING

from fedws.cli.parser import Parser, named

if TYPE_CHECKING:
    from torch.nn import Module

    from fedws.interfaces import Dataset
    from fedws.plan import Plan


def parser(prog: str) -> Parser:
    """The command's flags."""
    flags = Parser(prog=prog, description="Train a model on public data here, and write what MistNet begins with.")
    add = flags.add_argument
    add("--dataset", metavar="NAME", default="digits", help="public data: digits (default), mnist, cifar10 or your own")
    add("--model", metavar="NAME", help="(the data set's own)")
    add("--epochs", metavar="N", type=int, default=20, help="(20)")
    add("--loss", metavar="NAME", default="nll", help="(nll)")
    add("--optimizer", metavar="NAME", default="sgd", help="(sgd)")
    add("--lr", metavar="X", type=float, default=0.1, help="learning rate of epoch 1; 2 %% less each epoch (0.1)")
    add("--batch-size", metavar="N", type=int, default=32, help="(32)")
    add("--seed", metavar="N", type=int, default=1, help="(1)")
    add("--threads", metavar="N", type=int, default=1, help="torch's threads (1)")
    add("--cuda", action="store_true", help="use the GPU, where there is one")
    add("--data-dir", metavar="D", help="where data sets are (default: $FEDWS_DATA, or the user's cache)")
    add("--plugin", metavar="FILE.py", action="append", help="a file of yours that registers pieces")
    add("-o", "--output", metavar="FILE", help="(MODEL-DATASET.safetensors)")
    return flags


def main(arguments: argparse.Namespace) -> int:
    """Train, say how it goes, write the file."""
    from pathlib import Path

    from fedws import holding, learning, pretrained, registry
    from fedws.errors import UsageError
    from fedws.plan import make
    from fedws.tensors import detached

    for plugin in arguments.plugin or ():
        registry.load_plugin(plugin)
    name = arguments.model or holding.model(arguments.dataset)
    chosen = {
        key: getattr(arguments, key) for key in ("dataset", "loss", "optimizer", "lr", "batch_size", "seed", "cuda")
    }
    if arguments.epochs < 1:
        raise UsageError(f"--epochs {arguments.epochs}: at least 1")
    given = {**chosen, "threads": arguments.threads}
    plan = named(lambda: make({**given, "model": name, "training_rounds": arguments.epochs}), given)
    file = Path(arguments.output or f"{name.partition(':')[0]}-{plan.dataset.partition(':')[0]}.safetensors")
    if not file.absolute().parent.is_dir():  # said before the work is done
        raise UsageError(f"{file} cannot be written: there is no directory {file.parent}")
    data, held_out = (holding.load(plan.dataset, arguments.data_dir, train) for train in (True, False))
    module = trained(plan, data)
    score = learning.score(module, learning.Workspace("public", plan.dataset, held_out), plan.scoring())
    if score.accuracy is not None:
        print(f"of {score.samples} test samples of {plan.dataset}, {100 * score.accuracy:.2f} % are right")
    classes = len(score.histogram or ())
    if classes < 2:
        raise UsageError(
            f"{name} does not classify the samples of {plan.dataset}, which is all that MistNet can go on with"
        )
    origin = pretrained.Origin(name, plan.dataset, classes, list(data[0][0].shape), arguments.epochs)
    pretrained.save(file, detached(module.to("cpu").state_dict()), origin)
    print(f"use it with: fedws run --strategy mistnet --model {name} --pretrained {file}")
    return 0


def trained(plan: "Plan", data: "Dataset") -> "Module":
    """The plan's model after an epoch of ``data``, the plan's data set, for each of its rounds; says how it goes.

    Raises UsageError for a model that the data do not fit.
    """
    import torch

    from fedws import learning
    from fedws.errors import UsageError

    torch.set_num_threads(plan.threads)
    module = learning.initial(plan.model, plan.seed)
    work = learning.Workspace("public", plan.dataset, data)
    settings = plan.training().model_copy(update={"batches": 2**31})
    try:
        with torch.inference_mode():
            module.eval()(data[0][0].unsqueeze(0))
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"the samples of {plan.dataset} do not fit the model {plan.model}: {error}") from None
    for epoch in range(1, plan.training_rounds + 1):
        found = learning.train(module, work, settings.at(epoch), learning.order_seed(plan.seed, "public", epoch))
        print(f"epoch {epoch}/{plan.training_rounds}: loss {found.loss:.4f}", flush=True)
    return module
