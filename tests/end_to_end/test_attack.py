"""``fedws attack features`` as a process: its table, its picture, its mistakes."""

from pathlib import Path

import pytest

from fedws.attacks.image_grid import LABEL_INCHES, MARGIN_INCHES, ROW_INCHES, TITLE_INCHES
from tests.helpers.processes import Processes

SHORT = ("attack", "features", "--pretrain-epochs", "1", "--steps", "20", "--num-starts", "1", "--num-images", "3")


def test_a_table_and_a_picture_with_a_row_for_each_setting(processes: Processes, tmp_path: Path) -> None:
    command = processes.fork(*SHORT, "--split-at", "relu1", "pool1", "--epsilon", "0.5", "2", "-o", "rows.png")
    assert command.end() == 0, command.everything
    assert command.errors == []
    epoch, groups, titles, *rows, meaning, less, last = command.lines
    assert "below 0.3" in meaning and "find less" in less
    assert epoch.startswith("epoch 1/1: loss ")
    assert groups.split() == ["epsilon", "feature", "epsilon", "SSIM", "PSNR"]
    assert titles == "cut   encoding            a value  values  in all median   max median   max loss"
    assert all(len(line) <= 80 for line in command.lines)
    spent = [("bits", "0.5", 0.5), ("bits", "2", 2.0), ("bits_without_noise", "none", None), ("floats", "none", None)]
    wanted = [
        [cut, name, epsilon, str(values), "none" if each is None else f"{each * values:.6g}"]
        for cut, values in (("relu1", 20 * 24 * 24), ("pool1", 20 * 12 * 12))
        for name, epsilon, each in spent
    ]
    assert [row.split()[:5] for row in rows] == wanted
    for row in rows:
        *numbers, loss = row.split()[5:]
        similar, most, ratio, greatest = map(float, numbers)
        assert -1 <= similar <= most <= 1 and 0 < ratio <= greatest and loss in ("mse", "nll")
    assert last == "picture  rows.png"
    data = (tmp_path / "rows.png").read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    size = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    height, width = (
        TITLE_INCHES + (1 + len(wanted)) * ROW_INCHES + MARGIN_INCHES,
        LABEL_INCHES + 3 * ROW_INCHES + MARGIN_INCHES,
    )
    assert size == pytest.approx((100 * width, 100 * height), abs=1)


def test_what_was_pretrained_is_attacked(processes: Processes, tmp_path: Path) -> None:
    pretrain = processes.fork("pretrain", "--epochs", "1", "-o", "net.safetensors")
    assert pretrain.end() == 0, pretrain.everything
    flags = ("--pretrained", "net.safetensors", "--encoding", "laplace:bound=4", "oue:3", "--epsilon", "0.5")
    command = processes.fork(*SHORT, *flags)
    assert command.end() == 0, command.everything
    assert [line.split()[:3] for line in command.lines[2:-3]] == [["pool1", "laplace", "0.5"], ["pool1", "oue", "3"]]
    assert (tmp_path / "attack.png").is_file()
    other = processes.fork(*SHORT, "--pretrained", "net.safetensors", "--model", "mlp", "--split-at", "1")
    assert other.end() == 2
    assert other.errors[0].startswith("fedws attack: --pretrained net.safetensors contains 'mnist_cnn', not 'mlp': ")


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--split-at", "pool3"), "--split-at pool3: unknown split point in MnistCnn; choose from pool"),
        (("--model", "mlp"), "--split-at : unknown split point in Mlp; choose from "),
        (("--epsilon", "0"), "encoding bits: epsilon: Input should be greater than 0"),
        (("--epsilon", "nan"), "encoding bits: epsilon: Input should be"),
        (("--epsilon", "much"), "argument --epsilon: invalid float value: 'much'"),
        (("--encoding", "bitz"), "unknown encoding 'bitz'; did you mean 'bits'"),
        (("--num-images", "0"), "--num-images: expected at least 1, got 0"),
        (("--num-images", "356"), "--num-images 356: digits has only 355 test images"),
        (("--steps", "0"), "--steps: expected at least 1, got 0"),
        (("--num-starts", "-1"), "--num-starts: expected at least 1, got -1"),
        (("--pretrain-epochs", "0"), "--pretrain-epochs: expected at least 1, got 0"),
        (("--pretrained", "none.safetensors"), "cannot read the pretrained model none.safetensors"),
        (
            ("--model", "cifar_cnn", "--split-at", "features.2"),
            "samples of digits, shape [1, 28, 28], do not fit cifar_cnn",
        ),
        (("-o", "none/attack.png"), "--output none/attack.png: directory 'none' not found"),
        (
            ("--dataset", "tiny", "--plugin", "tiny.py"),
            "dataset tiny is not a fedws.ImageDataset with at least 11 x 11 pixels",
        ),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_trained(
    processes: Processes, tmp_path: Path, flags: tuple[str, ...], text: str
) -> None:
    source = """
import torch, fedws
@fedws.register("dataset", "tiny")
def tiny(root, train):
    return fedws.ImageDataset(torch.zeros((9, 1, 8, 8), dtype=torch.uint8), torch.arange(9), (0.5,), (0.5,))
"""
    (tmp_path / "tiny.py").write_text(source, encoding="utf-8")
    command = processes.fork(*SHORT, *flags)
    assert command.end() == 2, command.everything
    assert command.lines == []
    assert len(command.errors) == 1 and command.errors[0].startswith(f"fedws attack: {text}"), command.everything
    assert not (tmp_path / "attack.png").exists()
