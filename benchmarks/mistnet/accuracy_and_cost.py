"""MistNet on CIFAR-10: the cost of its cuts and encodings in accuracy, the load on workers, and the bytes sent.

Batch 5 is public and only used to pretrain the model. The other batches are private and held by four workers. Every
case starts from the pretrained weights. All cases have the same optimizer, learning rates (0.05, 30 % less in each
epoch) and batches of 64, and no augmentation. Labels are clear unless the row of a case contains "labels". FedAvg has
rounds of one epoch each. Their number is the one at which FedAvg sends as many bytes as MistNet at the first cut.

Two cases run at a time, with one thread each. Features are on the disk during a run, up to 4 GB. With ``--full``, which
uses the models and cuts of the paper, they take up to 21 GB.
"""

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from benchmarks.harness.processes import Child, Crew
from benchmarks.harness.settings import Settings
from benchmarks.harness.tables import table
from benchmarks.mistnet import bytes_sent, feature_leak, upload_memory
from benchmarks.mistnet.plugin import PRIVATE, multiply_adds
from benchmarks.mistnet.training_case import SKEWED, WORKERS, TrainingCase
from fedws.split_learning import communication_cost
from fedws.split_learning.model_split import split_model
from fedws.training import model_building

ENCODINGS = ("floats", "bits_without_noise", "bits:epsilon=2", "bits:epsilon=1", "bits:epsilon=0.5")
LABEL_EPSILON = 4.0
HIDDEN = 0.3
"""SSIM below which a picture counts as unrecognisable."""
AT_ONCE = 2
LIMIT = 24 * 3600.0
"""Timeout of one case in seconds, which is long enough for ``--full`` on CPUs."""


@dataclass(frozen=True)
class Net:
    """A model, and the layers at which it is cut, the earliest first."""

    model: str
    cuts: tuple[str, ...]

    @cached_property
    def module(self) -> torch.nn.Module:
        """Return the model with random weights."""
        return model_building.build_model(self.model, 1)

    def size(self, cut: str, records: int) -> communication_cost.CommunicationCost:
        """Return the cost of the model and of ``records`` records whose features are cut at ``cut``."""
        return communication_cost.measure_cost(
            self.model, lambda: model_building.build_model(self.model, 1), (3, 32, 32), cut, records, 1
        )

    def share(self, cut: str) -> float:
        """Return the fraction of the parameters that is in the extractor."""
        extractor, _ = split_model(self.module, cut)
        mine, all_ = (sum(one.numel() for one in module.parameters()) for module in (extractor, self.module))
        return mine / all_

    def equal_rounds(self, records: int) -> int:
        """Return the number of FedAvg's rounds that send as many bytes as MistNet at the first cut.

        MistNet sends the bits of ``records`` records, and their labels. The number is at least one.
        """
        size = self.size(self.cuts[0], records)
        return max(1, round((size.encoded_bytes("bits") + 8 * records) / (2 * len(WORKERS) * size.model_bytes)))


SMALL = Net("small_vgg", ("features.9", "features.16", "features.23"))
PAPER = (Net("cifar_resnet18", ("layer1", "layer2", "layer3")), Net("cifar_vgg16", ("features.5", "features.12")))


@dataclass(frozen=True)
class Extent:
    """The number of epochs and records of a benchmark."""

    epochs: int = 10
    pretrain_epochs: int = 20
    """Number of epochs of pretraining."""
    records: int = PRIVATE
    public: int = PRIVATE


QUICK = Extent(1, 1, 256, 256)


def main(settings: Settings) -> None:
    """Measure everything for every model, and print it."""
    for net in PAPER if settings.full else (SMALL,):
        figures(net, QUICK if settings.quick else Extent(), settings.data_dir)


def figures(net: Net, extent: Extent, data_dir: Path) -> None:
    """Pretrain a model, run the cases, measure a worker and the links, and print all figures."""
    begun = time.monotonic()
    size = net.size(net.cuts[0], extent.records)
    work = multiply_adds(net.module) / 1e6
    print(f"mistnet: {net.model}, {size.num_parameters:,} parameters, {work:.1f} M multiply-adds")
    epochs = f"{extent.epochs} epochs a case, {extent.pretrain_epochs} epochs of pretraining"
    print(f"{epochs}; {extent.records:,} private samples")
    with tempfile.TemporaryDirectory(prefix="fedws-bench-") as folder:
        file = str(Path(folder) / "pretrained.safetensors")
        alone = pretrain(net, extent, data_dir, file)
        dataset, cuda = f"cifar10_private:samples={extent.records}", torch.cuda.is_available()
        plain = TrainingCase("centralised", net.model, dataset, str(data_dir), file, extent.epochs, cuda=cuda)
        chosen = cases(net, plain, extent)
        found = accuracies([case for _, case in chosen])
        leaks = feature_leak.attacked(net.model, file, data_dir, net.cuts, quick=extent is QUICK)
        rows = [["pretrained, no private data", "", "", "", alone, "", ""]]
        for name, case in chosen:
            rows.append(
                [name, *privacy_columns(net, case), 100 * found[case], *leaks.get((case.cut, case.encoding), ("", ""))]
            )
        head = ["", "cut", "extractor %", "epsilon total", "accuracy %", "SSIM", "PSNR"]
        print(table(head, _rounded(rows)))
        print("epsilon total: bound of a record's features and of its randomised label; a clear label has no bound")
        print("SSIM, PSNR: median of reconstructed test pictures; an SSIM below 0.3 counts as unrecognisable")
        if plain in found:
            print(verdict(found, plain, leaks))
        print(feature_leak.paper())
        print()
        noisy = replace(plain, way="mistnet", cut=net.cuts[0], encoding="bits:epsilon=2", label_epsilon=LABEL_EPSILON)
        worker_cost(net, noisy, extent.records // len(WORKERS))
        print()
        links(noisy, net, extent)
        if net is SMALL:
            print()
            uploads(file, extent)
    print(f"completed in {(time.monotonic() - begun) / 60:.0f} minutes")
    print()


def verdict(
    found: Mapping[TrainingCase, float], plain: TrainingCase, leaks: Mapping[tuple[str, str], tuple[float, float]]
) -> str:
    """Return a comparison of centralised training with the best case whose pictures are unrecognisable."""
    hidden = [(found[case], case) for case in found if leaks.get((case.cut, case.encoding), (1.0, 0.0))[0] < HIDDEN]
    if not hidden:
        return f"no case has an SSIM below {HIDDEN}"
    best, case = max(hidden, key=lambda pair: pair[0])
    below = 100 * (found[plain] - best)
    result = f"{case.encoding} at {case.cut}, {100 * best:.2f} %, {below:.2f} points below centralised"
    return f"best accuracy with an SSIM below {HIDDEN}: {result}"


def pretrain(net: Net, extent: Extent, data_dir: Path, file: str) -> float:
    """Write the pretrained model to ``file``, and return its accuracy in percent."""
    what = ["--dataset", f"cifar10_public:samples={extent.public}", "--plugin", bytes_sent.PLUGIN]
    what += ["--model", net.model, "--data-dir", str(data_dir), "-o", file]
    how = [
        "--epochs",
        str(extent.pretrain_epochs),
        "--lr",
        "0.02",
        "--batch-size",
        "64",
        "--optimizer",
        "sgd:momentum=0.9",
    ]
    if torch.cuda.is_available():
        how.append("--cuda")
    with Crew() as crew:
        child = crew.start("pretrain", "-m", "fedws", "pretrain", *what, *how)
        child.finish(LIMIT)
        (_, printed), *_ = child.matches(r"accuracy (\S+) % on ")
    return float(printed[1])


def cases(net: Net, plain: TrainingCase, extent: Extent) -> list[tuple[str, TrainingCase]]:
    """Return the cases with the names of their rows; a quick benchmark has one of each way."""
    averaged = replace(plain, way="fedavg", epochs=net.equal_rounds(extent.records))
    rounds = f"FedAvg, {averaged.epochs} rounds"
    chosen = [
        ("centralised", plain),
        (f"{rounds}, iid", averaged),
        (f"{rounds}, skewed", replace(averaged, partition=SKEWED)),
    ]
    for cut in net.cuts:
        chosen += [(one, replace(plain, way="mistnet", cut=cut, encoding=one)) for one in ENCODINGS]
    noisy = replace(plain, way="mistnet", cut=net.cuts[0], encoding="bits:epsilon=2")
    chosen.append(("bits:epsilon=2, skewed", replace(noisy, partition=SKEWED)))
    chosen.append((f"bits:epsilon=2, labels {LABEL_EPSILON:g}", replace(noisy, label_epsilon=LABEL_EPSILON)))
    return chosen[:2] + chosen[-1:] if extent is QUICK else chosen


def privacy_columns(net: Net, case: TrainingCase) -> list[object]:
    """Return the cut, the extractor's fraction of the parameters in percent, and the total epsilon of a record.

    Epsilon is "none" without a privacy mechanism. All three are empty for a case without features.
    """
    if case.way != "mistnet":
        return ["", "", ""]
    features = case.algorithm.release_format.model_copy(update={"label_epsilon": case.label_epsilon})
    spent = features.build_release(net.size(case.cut, 1).feature_shape)
    total = math.inf if spent.epsilon is None else spent.num_features * spent.epsilon + (spent.label_epsilon or 0.0)
    return [case.cut, f"{100 * net.share(case.cut):.1f}", "none" if math.isinf(total) else f"{total:,.0f}"]


def accuracies(chosen: Sequence[TrainingCase]) -> dict[TrainingCase, float]:
    """Train the cases, ``AT_ONCE`` at a time, print each when it is done, and return their accuracies."""
    found: dict[TrainingCase, float] = {}
    running: list[tuple[TrainingCase, Child]] = []
    with Crew() as crew:
        for number, case in enumerate(chosen):
            running.append((case, crew.start("case", "-m", "benchmarks.mistnet.training_case", case.text())))
            while len(running) == AT_ONCE or (running and number == len(chosen) - 1):
                time.sleep(0.2)
                for one, child in [pair for pair in running if pair[1].process.poll() is not None]:
                    child.finish(LIMIT)
                    (_, printed), *_ = child.matches(r"accuracy (\S+) seconds (\S+)")
                    found[one] = float(printed[1])
                    labels = "clear" if one.label_epsilon is None else f"epsilon {one.label_epsilon:g}"
                    what = ", ".join(filter(None, [one.way, one.cut, one.encoding, one.partition, f"labels {labels}"]))
                    print(f"  {100 * found[one]:.2f} % in {float(printed[2]):.0f} s: {what}", flush=True)
                    running.remove((one, child))
    return found


def worker_cost(net: Net, case: TrainingCase, samples: int) -> None:
    """Print the seconds and the memory of a worker."""
    print(f"a worker with {samples:,} samples: extraction, compared with one epoch of training the same model")
    rows = []
    for name, what, cut in [*(("extract", "extract", cut) for cut in net.cuts), ("train", "train", net.cuts[0])]:
        with Crew() as crew:
            child = crew.start(
                name, "-m", "benchmarks.mistnet.device_cost", what, replace(case, cut=cut).text(), str(samples)
            )
            child.finish(LIMIT)
            (_, printed), *_ = child.matches(r"seconds (\S+) ready (\S+) peak (\S+)")
        ready, peak = int(printed[2]) / 1e6, int(printed[3]) / 1e6
        label = f"{name} to {cut}" if what == "extract" else name
        rows.append([label, float(printed[1]), f"{ready:.0f}", f"{peak:.0f}", f"{peak - ready:.0f}"])
    print(table(["", "s", "ready MB", "peak MB", "growth MB"], rows))


def links(case: TrainingCase, net: Net, extent: Extent) -> None:
    """Print the bytes that MistNet and FedAvg send."""
    rounds = net.equal_rounds(extent.records)
    print(f"bytes on the links of {len(WORKERS)} workers in both directions; the kernel also counts other programs")
    names = f"mistnet, {case.cut}, bits", f"fedavg, {rounds} rounds"
    measured = zip(names, bytes_sent.both(case, rounds), strict=True)
    rows = [[name, f"{one.recorded / 1e6:.2f}", f"{one.payload / 1e6:.2f}"] for name, one in measured]
    raw = net.size(case.cut, extent.records).raw_bytes
    rows.append(["pixels", f"{raw / 1e6:.2f}", ""])
    print(table(["", "recorded MB", "kernel MB"], rows))


def uploads(file: str, extent: Extent) -> None:
    """Print the growth of the coordinator's memory with the size of an upload."""
    counts = (20, 200) if extent is QUICK else upload_memory.RECORDS
    found = upload_memory.peaks(file, counts)
    print("peak memory of the coordinator after a complete upload")
    sizes = [count * upload_memory.RECORD / 1e6 for count in counts]
    print(
        table(
            ["upload MB", "peak MB"],
            [[f"{size:.0f}", f"{peak / 1e6:.0f}"] for size, peak in zip(sizes, found, strict=True)],
        )
    )
    print(f"{(found[-1] - found[0]) / 1e6 / (sizes[-1] - sizes[0]):.3f} MB of memory per MB of upload")


def _rounded(rows: Sequence[Sequence[object]]) -> list[list[object]]:
    return [[f"{cell:.2f}" if isinstance(cell, float) else cell for cell in row] for row in rows]
