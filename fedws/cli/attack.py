"""The command ``fedws attack features``, which reconstructs pictures from the features that a worker would send."""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedws.cli.parser import Parser
from fedws.cli.shared_flags import add_local_flags

if TYPE_CHECKING:
    import torch

    from fedws.attacks.feature_inversion import InversionResult

NUMBER_WIDTHS = (8, 8, 8, 7, 6, 7, 6, 5)
"""Widths in characters of the table's columns after the first two."""
MAX_NAME_WIDTH = 24
"""Maximum width in characters of the first two columns, which are otherwise as wide as their contents."""


def build_parser(prog: str) -> Parser:
    """Return the parser of the command."""
    flags = Parser(
        prog=prog,
        usage="%(prog)s features [flags]",
        description="Reconstruct pictures from the features that MistNet workers send, and measure their similarity "
        "to the originals. The attack uses the extractor, the encoding and its epsilon.",
    )
    add = flags.add_argument
    add("kind", choices=("features",), metavar="features", help="target of the attack")
    add("--dataset", metavar="NAME", default="digits", help="data set whose test pictures are attacked (digits)")
    add("--model", metavar="NAME", help="model (the pretrained one, or the default of the data set)")
    add(
        "--pretrained",
        metavar="FILE",
        help="file that fedws pretrain wrote (without it, the model is first trained on --public-dataset)",
    )
    add("--public-dataset", metavar="NAME", default="digits", help="data set for pretraining (digits)")
    add("--pretrain-epochs", metavar="N", type=int, default=20, help="number of pretraining epochs (20)")
    add(
        "--split-at",
        metavar="LAYER",
        nargs="+",
        help="last layers that workers run, such as features.2 or 4 (the default of the model)",
    )
    add(
        "--encoding",
        metavar="NAME",
        nargs="+",
        default=["bits", "bits_without_noise", "floats"],
        help="encodings to attack (bits bits_without_noise floats)",
    )
    add(
        "--epsilon",
        metavar="X",
        type=float,
        nargs="+",
        default=[0.5, 1.0, 2.0],
        help="epsilon of each feature value, for noisy encodings that do not set their own as bits:4 does (0.5 1 2)",
    )
    add("--num-images", metavar="N", type=int, default=8, help="number of pictures (8)")
    add("--steps", metavar="N", type=int, default=300, help="number of steps of gradient descent (300)")
    add("--num-starts", metavar="N", type=int, default=2, help="number of random initial pictures for each (2)")
    add(
        "--seed",
        metavar="N",
        type=int,
        default=1,
        help="seed that selects pictures and initial pictures, but not the noise (1)",
    )
    add("--threads", metavar="N", type=int, default=1, help="number of threads of torch (1)")
    add_local_flags(flags)
    add("-o", "--output", metavar="FILE.png", default="attack.png", help="image to write (attack.png)")
    return flags


def main(arguments: argparse.Namespace) -> int:
    """Attack every combination of layer and encoding, print a table, and draw the pictures."""
    from pathlib import Path

    import torch
    from tqdm import tqdm

    from fedws.attacks import feature_inversion, image_grid
    from fedws.cli.attack_inputs import check_samples_fit, load_weights, select_images
    from fedws.core import registry
    from fedws.core.errors import UsageError
    from fedws.core.plugins import load_plugins
    from fedws.core.spec import Spec
    from fedws.data import loading
    from fedws.privacy.secure_noise import SecureRandom
    from fedws.split_learning import pretrained_file
    from fedws.split_learning.model_split import split_model
    from fedws.training import model_building

    for name in ("pretrain_epochs", "num_images", "steps", "num_starts", "threads"):
        if getattr(arguments, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')}: expected at least 1, got {getattr(arguments, name)}")
    load_plugins(arguments.plugins or ())
    torch.set_num_threads(arguments.threads)
    encodings = [
        (spec, registry.build_piece("encoding", spec))
        for spec in _expand_epsilons(arguments.encoding, arguments.epsilon)
    ]
    images = select_images(loading.load_dataset(arguments.dataset, arguments.data_dir, train=False), arguments)
    output = Path(arguments.output)
    if not output.parent.is_dir():
        raise UsageError(f"--output {output}: directory {str(output.parent)!r} not found")
    spec = arguments.model
    if not spec:
        file = arguments.pretrained
        spec = (
            pretrained_file.load_pretrained(Path(file)).info.model
            if file
            else loading.get_default_model(arguments.dataset)
        )
    module = model_building.build_model(spec, seed=0)
    check_samples_fit(module, images, spec, arguments.dataset)
    default_split = getattr(registry.find_piece("model", Spec.parse(spec).name), "split_at", "")
    extractors = [(cut, split_model(module, cut)[0]) for cut in arguments.split_at or [default_split]]
    module.load_state_dict(load_weights(module, spec, arguments))  # the extractors share these weights
    budget = feature_inversion.AttackBudget(steps=arguments.steps, starts=arguments.num_starts, seed=arguments.seed)
    rows = [("originals", images.pixels / 255)]
    widths = _fit_column_widths([layer for layer, _ in extractors], [text for text, _ in encodings])
    print(*_format_header(widths), sep="\n")
    total = len(extractors) * len(encodings) * budget.total_steps
    form = "{desc} {percentage:3.0f} % |{bar}| {elapsed}, {remaining} left"
    with tqdm(total=total, desc="Step", bar_format=form, leave=False, disable=not sys.stderr.isatty()) as bar:
        for cut, extractor in extractors:
            for text, encoding in encodings:
                try:
                    outcome = feature_inversion.invert_features(
                        extractor, encoding, images, budget, SecureRandom(), bar.update
                    )
                except ValueError as error:
                    raise UsageError(f"--split-at {cut}, encoding {text}: {error}") from None
                bar.write(
                    _format_result(widths, cut, Spec.parse(text).name, encoding.epsilon, outcome),
                    file=sys.stdout,
                )
                sys.stdout.flush()
                similar = f"median SSIM {_median(outcome.ssim):.3f}, PSNR {_median(outcome.psnr):.1f} dB"
                objective = f"found by {outcome.objective} + {outcome.tv_weight:g} x TV"
                rows.append((f"{cut}, {text}\n{similar}\n{objective}", outcome.images))
    try:
        image_grid.draw_grid(
            rows, output, f"{spec} on {loading.get_dataset_title(arguments.dataset)}: what its features reveal"
        )
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror or error}; choose another --output") from None
    print("SSIM is 1 for identical pictures; below 0.3 a picture counts as unrecognisable")
    print("fewer steps, starts or images find less; other attacks may find more")
    print(f"picture  {output}")
    return 0


def _expand_epsilons(encodings: Sequence[str], epsilons: Sequence[float]) -> list[str]:
    """Return every encoding, with every epsilon if it adds noise and does not set its own epsilon."""
    from fedws.core import registry
    from fedws.core.spec import Spec

    found = []
    for text in encodings:
        spec = Spec.parse(text)
        noisy = registry.build_piece("encoding", text).epsilon is not None
        needs_epsilon = noisy and spec.value is None and "epsilon" not in spec.options
        separator = "," if spec.options else ":"
        found += [f"{text}{separator}epsilon={epsilon!r}" for epsilon in epsilons] if needs_epsilon else [text]
    return found


def _fit_column_widths(layers: Sequence[str], encodings: Sequence[str]) -> tuple[int, ...]:
    """Return the widths of the table's columns in characters.

    The widths of the first two columns, which are left-aligned, are negative.
    """
    from fedws.core.spec import Spec

    names = [Spec.parse(text).name for text in encodings]
    longest = (max(map(len, ["cut", *layers])), max(map(len, ["encoding", *names])))
    return (*(-min(MAX_NAME_WIDTH, length + 1) for length in longest), *NUMBER_WIDTHS)


def _format_header(widths: Sequence[int]) -> tuple[str, str]:
    """Return the two lines of the table's header."""
    return (
        _format_row(widths, "", "", "epsilon", "feature", "epsilon", "SSIM", "", "PSNR", "", ""),
        _format_row(widths, "cut", "encoding", "a value", "values", "in all", "median", "max", "median", "max", "loss"),
    )


def _format_result(
    widths: Sequence[int], split_at: str, encoding: str, epsilon: float | None, result: "InversionResult"
) -> str:
    epsilons = ("none", "none") if epsilon is None else (f"{epsilon:g}", f"{epsilon * result.num_features:.6g}")
    ssim = f"{_median(result.ssim):.3f}", f"{float(result.ssim.max()):.3f}"
    psnr = f"{_median(result.psnr):.1f}", f"{float(result.psnr.max()):.1f}"
    return _format_row(
        widths, split_at, encoding, epsilons[0], str(result.num_features), epsilons[1], *ssim, *psnr, result.objective
    )


def _median(values: "torch.Tensor") -> float:
    return float(values.quantile(0.5))


def _format_row(widths: Sequence[int], *texts: str) -> str:
    short = [text if len(text) < abs(w) else f"{text[: abs(w) - 2]}…" for text, w in zip(texts, widths, strict=True)]
    return "".join(text.ljust(-w) if w < 0 else text.rjust(w) for text, w in zip(short, widths, strict=True)).rstrip()
