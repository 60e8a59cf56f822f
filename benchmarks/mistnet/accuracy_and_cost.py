"""MistNet on CIFAR-10: what its cuts and encodings cost in accuracy, what it asks of workers, and what it sends.

Batch 5 is public, and only pretrains the net; the others are private, held by four workers. Every case begins with the
pretrained weights and has the same optimizer, learning rates (0.05, 30 % less each epoch), batches of 64, and no
augmentation; labels are clear but where it is said. FedAvg has as many rounds, of an epoch each, as have the bytes that
MistNet has at the first cut. Two cases run at a time, with a thread each; features are on the disk meanwhile, up to
4 GB, and 21 GB with ``--full``, which has the paper's nets and cuts.
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
"""Seconds that one case may take, with ``--full`` on processors."""


@dataclass(frozen=True)
class Net:
    """A model, and where it is cut: early, then later and later."""

    model: str
    cuts: tuple[str, ...]

    @cached_property
    def module(self) -> torch.nn.Module:
        """With weights that mean nothing."""
        return model_building.build_model(self.model, 1)

    def size(self, cut: str, records: int) -> communication_cost.CommunicationCost:
        """Of the model and of so many records, cut there."""
        return communication_cost.measure_cost(
            self.model, lambda: model_building.build_model(self.model, 1), (3, 32, 32), cut, records, 1
        )

    def share(self, cut: str) -> float:
        """The part of the parameters that is in the extractor."""
        extractor, _ = split_model(self.module, cut)
        mine, all_ = (sum(one.numel() for one in module.parameters()) for module in (extractor, self.module))
        return mine / all_

    def equal_rounds(self, records: int) -> int:
        """FedAvg's rounds with the bytes of MistNet's bits and labels at the first cut; at least one."""
        size = self.size(self.cuts[0], records)
        return max(1, round((size.encoded_bytes("bits") + 8 * records) / (2 * len(WORKERS) * size.model_bytes)))


SMALL = Net("small_vgg", ("features.9", "features.16", "features.23"))
PAPER = (Net("cifar_resnet18", ("layer1", "layer2", "layer3")), Net("cifar_vgg16", ("features.5", "features.12")))


@dataclass(frozen=True)
class Extent:
    """How much is run."""

    epochs: int = 10
    lessons: int = 20
    """Epochs of pretraining."""
    records: int = PRIVATE
    public: int = PRIVATE


QUICK = Extent(1, 1, 256, 256)


def main(settings: Settings) -> None:
    """Everything of every net."""
    for net in PAPER if settings.full else (SMALL,):
        figures(net, QUICK if settings.quick else Extent(), settings.data_dir)


def figures(net: Net, extent: Extent, data_dir: Path) -> None:
    """Pretrain, run the cases, measure a worker and the links, and print it all."""
    begun = time.monotonic()
    size = net.size(net.cuts[0], extent.records)
    work = multiply_adds(net.module) / 1e6
    print(f"mistnet: {net.model}, {size.num_parameters:,} parameters, {work:.1f} M multiply-adds")
    print(f"{extent.epochs} epochs a case on {extent.records:,} private samples; {extent.lessons} of pretraining")
    with tempfile.TemporaryDirectory(prefix="fedws-bench-") as folder:
        file = str(Path(folder) / "pretrained.safetensors")
        alone = pretrain(net, extent, data_dir, file)
        dataset, cuda = f"cifar10_private:samples={extent.records}", torch.cuda.is_available()
        plain = TrainingCase("centralised", net.model, dataset, str(data_dir), file, extent.epochs, cuda=cuda)
        asked = cases(net, plain, extent)
        found = accuracies([case for _, case in asked])
        leaks = feature_leak.attacked(net.model, file, data_dir, net.cuts, quick=extent is QUICK)
        rows = [["pretrained, nothing private", "", "", "", alone, "", ""]]
        for name, case in asked:
            rows.append([name, *told(net, case), 100 * found[case], *leaks.get((case.cut, case.encoding), ("", ""))])
        head = ["", "cut", "extractor %", "epsilon total", "accuracy %", "SSIM", "PSNR"]
        print(table(head, _rounded(rows)))
        print("epsilon total: of a record's features, and its label where that has one; a clear label has no bound")
        print("SSIM, PSNR: of reconstructed test pictures, the median; below 0.3 counts as unrecognisable")
        if plain in found:
            print(verdict(found, plain, leaks))
        print(feature_leak.paper())
        print()
        noisy = replace(plain, way="mistnet", cut=net.cuts[0], encoding="bits:epsilon=2", label_epsilon=LABEL_EPSILON)
        bearing(net, noisy, extent.records // len(WORKERS))
        print()
        links(noisy, net, extent)
        if net is SMALL:
            print()
            uploads(file, extent)
    print(f"all of it took {(time.monotonic() - begun) / 60:.0f} minutes")
    print()


def verdict(
    found: Mapping[TrainingCase, float], plain: TrainingCase, leaks: Mapping[tuple[str, str], tuple[float, float]]
) -> str:
    """How near to centralised training comes what nobody recognises."""
    hidden = [(found[case], case) for case in found if leaks.get((case.cut, case.encoding), (1.0, 0.0))[0] < HIDDEN]
    if not hidden:
        return f"no setting has an SSIM below {HIDDEN}"
    best, case = max(hidden, key=lambda pair: pair[0])
    below = 100 * (found[plain] - best)
    told = f"{case.encoding} at {case.cut}, {100 * best:.2f} %, {below:.2f} points below centralised"
    return f"the best below {HIDDEN}: {told}"


def pretrain(net: Net, extent: Extent, data_dir: Path, file: str) -> float:
    """Write the pretrained model; gives its accuracy in percent."""
    what = ["--dataset", f"cifar10_public:samples={extent.public}", "--plugin", bytes_sent.PLUGIN]
    what += ["--model", net.model, "--data-dir", str(data_dir), "-o", file]
    how = ["--epochs", str(extent.lessons), "--lr", "0.02", "--batch-size", "64", "--optimizer", "sgd:momentum=0.9"]
    if torch.cuda.is_available():
        how.append("--cuda")
    with Crew() as crew:
        child = crew.start("pretrain", "-m", "fedws", "pretrain", *what, *how)
        child.finish(LIMIT)
        (_, said), *_ = child.matches(r"(\S+) % are right")
    return float(said[1])


def cases(net: Net, plain: TrainingCase, extent: Extent) -> list[tuple[str, TrainingCase]]:
    """What is trained, by the names of the rows; quickly, one of each way."""
    averaged = replace(plain, way="fedavg", epochs=net.equal_rounds(extent.records))
    rounds = f"FedAvg, {averaged.epochs} rounds"
    asked = [
        ("centralised", plain),
        (f"{rounds}, iid", averaged),
        (f"{rounds}, skewed", replace(averaged, partition=SKEWED)),
    ]
    for cut in net.cuts:
        asked += [(one, replace(plain, way="mistnet", cut=cut, encoding=one)) for one in ENCODINGS]
    noisy = replace(plain, way="mistnet", cut=net.cuts[0], encoding="bits:epsilon=2")
    asked.append(("bits:epsilon=2, skewed", replace(noisy, partition=SKEWED)))
    asked.append((f"bits:epsilon=2, labels {LABEL_EPSILON:g}", replace(noisy, label_epsilon=LABEL_EPSILON)))
    return asked[:2] + asked[-1:] if extent is QUICK else asked


def told(net: Net, case: TrainingCase) -> list[object]:
    """Cut, the extractor's share in percent, and epsilon of a record as a whole; infinite without a mechanism."""
    if case.way != "mistnet":
        return ["", "", ""]
    features = case.algorithm.release_format.model_copy(update={"label_epsilon": case.label_epsilon})
    spent = features.build_release(net.size(case.cut, 1).feature_shape)
    total = math.inf if spent.epsilon is None else spent.num_features * spent.epsilon + (spent.label_epsilon or 0.0)
    return [case.cut, f"{100 * net.share(case.cut):.1f}", "none" if math.isinf(total) else f"{total:,.0f}"]


def accuracies(asked: Sequence[TrainingCase]) -> dict[TrainingCase, float]:
    """Train the cases, some at a time; each is told of when it is done."""
    found: dict[TrainingCase, float] = {}
    running: list[tuple[TrainingCase, Child]] = []
    with Crew() as crew:
        for number, case in enumerate(asked):
            running.append((case, crew.start("case", "-m", "benchmarks.mistnet.training_case", case.text())))
            while len(running) == AT_ONCE or (running and number == len(asked) - 1):
                time.sleep(0.2)
                for one, child in [pair for pair in running if pair[1].process.poll() is not None]:
                    child.finish(LIMIT)
                    (_, said), *_ = child.matches(r"accuracy (\S+) seconds (\S+)")
                    found[one] = float(said[1])
                    labels = "clear" if one.label_epsilon is None else f"epsilon {one.label_epsilon:g}"
                    what = ", ".join(filter(None, [one.way, one.cut, one.encoding, one.partition, f"labels {labels}"]))
                    print(f"  {100 * found[one]:.2f} % in {float(said[2]):.0f} s: {what}", flush=True)
                    running.remove((one, child))
    return found


def bearing(net: Net, case: TrainingCase, samples: int) -> None:
    """What a worker has to bear."""
    print(f"a worker with {samples:,} samples: extraction, against one epoch of training the same net")
    rows = []
    for name, what, cut in [*(("extract", "extract", cut) for cut in net.cuts), ("train", "train", net.cuts[0])]:
        with Crew() as crew:
            child = crew.start(
                name, "-m", "benchmarks.mistnet.device_cost", what, replace(case, cut=cut).text(), str(samples)
            )
            child.finish(LIMIT)
            (_, said), *_ = child.matches(r"seconds (\S+) ready (\S+) peak (\S+)")
        ready, peak = int(said[2]) / 1e6, int(said[3]) / 1e6
        label = f"{name} to {cut}" if what == "extract" else name
        rows.append([label, float(said[1]), f"{ready:.0f}", f"{peak:.0f}", f"{peak - ready:.0f}"])
    print(table(["", "s", "ready MB", "peak MB", "more MB"], rows))


def links(case: TrainingCase, net: Net, extent: Extent) -> None:
    """What MistNet and FedAvg send."""
    rounds = net.equal_rounds(extent.records)
    print(f"bytes on the links of {len(WORKERS)} workers, both directions; the kernel also counts others' traffic")
    names = f"mistnet, {case.cut}, bits", f"fedavg, {rounds} rounds"
    measured = zip(names, bytes_sent.both(case, rounds), strict=True)
    rows = [[name, f"{one.recorded / 1e6:.2f}", f"{one.payload / 1e6:.2f}"] for name, one in measured]
    raw = net.size(case.cut, extent.records).raw_bytes
    rows.append(["the pixels", f"{raw / 1e6:.2f}", ""])
    print(table(["", "recorded MB", "kernel MB"], rows))


def uploads(file: str, extent: Extent) -> None:
    """How the coordinator's memory grows with what arrives."""
    counts = (20, 200) if extent is QUICK else upload_memory.RECORDS
    found = upload_memory.peaks(file, counts)
    print("the coordinator's peak memory when all of an upload has arrived")
    sizes = [count * upload_memory.RECORD / 1e6 for count in counts]
    print(
        table(
            ["upload MB", "peak MB"],
            [[f"{size:.0f}", f"{peak / 1e6:.0f}"] for size, peak in zip(sizes, found, strict=True)],
        )
    )
    print(f"{(found[-1] - found[0]) / 1e6 / (sizes[-1] - sizes[0]):.3f} MB more for each MB more")


def _rounded(rows: Sequence[Sequence[object]]) -> list[list[object]]:
    return [[f"{cell:.2f}" if isinstance(cell, float) else cell for cell in row] for row in rows]
