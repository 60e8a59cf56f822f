import math

import pytest
import torch

from fedws.cli.main import main
from fedws.core import registry
from fedws.core.errors import UsageError
from fedws.models.cifar_cnn import CifarCnn
from fedws.split_learning import communication_cost
from fedws.split_learning.model_split import split_model

LARGE, POOLED, WHOLE, _, RESIDUAL = communication_cost.measure_published_models()


def gb(count: int) -> float:
    return count / 1e9


def test_the_published_claim_decoded() -> None:
    assert LARGE.num_parameters == pytest.approx(138.4e6, rel=1e-3)
    assert gb(LARGE.fedavg_bytes) == pytest.approx(55.3, abs=0.05)
    assert LARGE.feature_shape == (64, 112, 112)
    assert gb(LARGE.encoded_bytes("bits")) == pytest.approx(5.02, abs=0.005)


def test_the_claim_for_the_images_that_it_speaks_of() -> None:
    assert POOLED.num_parameters == WHOLE.num_parameters == pytest.approx(14.7e6, rel=2e-3)
    assert gb(POOLED.fedavg_bytes) == pytest.approx(5.9, abs=0.05)
    assert gb(POOLED.raw_bytes) == pytest.approx(0.154, abs=0.0005)
    assert gb(POOLED.encoded_bytes("bits")) == pytest.approx(0.10, abs=0.005)
    assert POOLED.encoded_bytes("bits") / POOLED.raw_bytes == pytest.approx(2 / 3)
    assert gb(WHOLE.encoded_bytes("bits")) == pytest.approx(0.41, abs=0.005)
    assert WHOLE.encoded_bytes("bits") / WHOLE.raw_bytes == pytest.approx(2.7, abs=0.05)
    assert WHOLE.encoded_bytes("floats") == 32 * WHOLE.encoded_bytes("bits")


def test_the_bits_of_a_resnet_cut_after_its_first_block() -> None:
    assert math.prod(RESIDUAL.feature_shape) == 65_536


def test_the_claim_is_told_in_three_lines() -> None:
    published, reproduced, corrected = communication_cost.explain_claim(LARGE, POOLED, WHOLE)
    assert "52 GB" in published and "5 GB" in published
    assert "138.4 M parameters x 4 B x 100 rounds one way = 55.3 GB" in reproduced
    assert "64 x 112 x 112 bits x 50,000 = 5.02 GB" in reproduced
    for figure in ("5.9 GB", "0.10 GB", "0.154 GB", "0.41 GB", "2.7 times"):
        assert figure in corrected


@pytest.mark.parametrize("make", [communication_cost.build_cifar_vgg16, communication_cost.build_cifar_resnet18])
def test_the_nets_for_small_images_can_be_run(make: type[torch.nn.Module]) -> None:
    assert make().eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("spec", ["mnist_cnn", "cifar_cnn"])
def test_sizes_are_those_of_what_is_sent(spec: str) -> None:
    shape, cut = ((1, 28, 28), "pool1") if spec == "mnist_cnn" else ((3, 32, 32), "features.6")
    module = registry.build_piece("model", spec).eval()
    found = communication_cost.measure_cost(
        spec, lambda: registry.build_piece("model", spec), shape, cut, num_records=4, rounds=3
    )
    features = split_model(module, cut)[0](torch.zeros(4, *shape))
    assert found.raw_bytes == torch.zeros(4, *shape, dtype=torch.uint8).nbytes
    assert found.encoded_bytes("floats") == features.nbytes
    assert (
        found.encoded_bytes("bits")
        == registry.build_piece("encoding", "bits_without_noise").encode(features, None).nbytes
    )
    assert found.model_bytes == sum(tensor.nbytes for tensor in module.state_dict().values())
    assert found.fedavg_bytes == 3 * found.model_bytes


def test_a_net_takes_no_memory() -> None:
    made: list[torch.nn.Module] = []

    def make() -> torch.nn.Module:
        made.append(CifarCnn())
        return made[-1]

    communication_cost.measure_cost("a net", make, (3, 32, 32), "features.6")
    assert all(parameter.is_meta for parameter in made[0].parameters())


def test_a_shape_that_does_not_fit_is_told_of() -> None:
    with pytest.raises(UsageError, match="--input-shape 3x32x32 does not fit mnist_cnn: "):
        communication_cost.measure_cost(
            "mnist_cnn", lambda: registry.build_piece("model", "mnist_cnn"), (3, 32, 32), "pool1"
        )


# ------------------------------------------------------------------ the command


def test_the_table_fits_on_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["communication-cost"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[2].split() == [
        "VGG-16", "3x224x224", "features.4", "138,357,544", "553.4", "7.526", "160.56", "5.018", "55.34",
    ]  # fmt: skip
    assert any(line.startswith("corrected: ") for line in lines)


def test_the_sizes_of_a_model_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", "mnist_cnn", "--input-shape", "1x28x28", "--num-records", "60000", "--rounds", "40"]
    assert main(["communication-cost", *words]) == 0
    out = capsys.readouterr().out
    assert "0.047" in out and "0.022" in out, "60,000 x 28 x 28 bytes, and 60,000 x 20 x 12 x 12 bits"
    assert "60,000 samples" in out and "40 rounds" in out and "published" not in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--model", "cifar_cnn"],
            "--split-at is required: model 'cifar_cnn' has no default split point; available: features.0, ",
        ),
        (["--model", "cifar_cnn", "--split-at", "features.99"], "unknown split point"),
        (["--model", "mnist_cnn", "--input-shape", "28"], "does not fit mnist_cnn"),
        (
            ["--model", "mnist_cnn", "--input-shape", "1x28xq"],
            "--input-shape: '1x28xq' is not a valid shape; use the form CxHxW",
        ),
        (["--model", "mnist_cnn", "--num-records", "0"], "--num-records: expected at least 1, got 0"),
        (["--model", "mnist_cn"], "mnist_cnn"),
        (["--split-at", "layer1"], "--split-at requires --model"),
    ],
)
def test_what_is_wrong_is_told(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["communication-cost", *words]) != 0
    captured = capsys.readouterr()
    assert said in captured.err
    assert not captured.out
