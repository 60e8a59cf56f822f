"""Inputs of ``fedws attack features``, which are pictures and a pretrained model.

Both are checked, since some pictures and models cannot be attacked.
"""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch.nn import Module

    from fedws.data.base import Dataset
    from fedws.data.samples import ImageDataset


def select_images(data: "Dataset", arguments: argparse.Namespace) -> "ImageDataset":
    """Return the pictures to attack, which the seed selects.

    Raise UsageError if there are too few, or if the data set does not hold images that are large enough.
    """
    import torch

    from fedws.attacks.image_similarity import WINDOW_PIXELS
    from fedws.core.errors import UsageError
    from fedws.data.samples import ImageDataset, select_samples

    if not isinstance(data, ImageDataset) or min(data.pixels.shape[2:]) < WINDOW_PIXELS:
        needed = f"fedws.ImageDataset with at least {WINDOW_PIXELS} x {WINDOW_PIXELS} pixels"
        raise UsageError(f"dataset {arguments.dataset} is not a {needed}; choose another --dataset")
    if arguments.num_images > len(data):
        raise UsageError(f"--num-images {arguments.num_images}: {arguments.dataset} has only {len(data)} test images")
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(arguments.seed))
    images = select_samples(data, order[: arguments.num_images])
    assert isinstance(images, ImageDataset)
    return images


def load_weights(module: "Module", spec: str, arguments: argparse.Namespace) -> dict[str, "torch.Tensor"]:
    """Return pretrained weights for ``module``, and pretrain them now if no file is given.

    Raise UsageError for a file of another model, and for public data that do not fit.
    """
    from pathlib import Path

    from fedws.cli.pretrain import pretrain_model
    from fedws.core.plan import build_plan
    from fedws.data import loading
    from fedws.split_learning import pretrained_file

    if arguments.pretrained:
        return dict(pretrained_file.load_pretrained_for(Path(arguments.pretrained), spec, module.state_dict()).model)
    chosen = {"dataset": arguments.public_dataset, "model": spec, "rounds": arguments.pretrain_epochs}
    plan = build_plan({**chosen, "seed": arguments.seed, "threads": arguments.threads})
    public = loading.load_dataset(arguments.public_dataset, arguments.data_dir, train=True)
    check_samples_fit(module, public, spec, arguments.public_dataset)
    return dict(pretrain_model(plan, public))


def check_samples_fit(module: "Module", data: "Dataset", spec: str, dataset: str) -> None:
    """Raise UsageError if the samples of a data set do not fit the model called ``spec``."""
    import torch

    from fedws.core.errors import TaskError, UsageError
    from fedws.split_learning import pretraining
    from fedws.training import task_context

    try:
        sample = pretraining.first_sample(task_context.TaskContext("public", dataset, data))[0][0]
    except TaskError as error:
        raise UsageError(str(error)) from None
    try:
        with torch.inference_mode():
            module.eval()(sample.unsqueeze(0))
    except RuntimeError as error:
        problem = f"samples of {dataset}, shape {list(sample.shape)}, do not fit {spec}"
        raise UsageError(f"{problem}; choose another --model, --pretrained or --public-dataset") from error
