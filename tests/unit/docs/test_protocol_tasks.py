"""The tasks, models, losses, optimizers and settings in docs/topics/protocol.md agree with the code."""

import dataclasses
import inspect
import json
import re

import pytest
from pydantic import BaseModel, ValidationError

from fedws.core import registry, seeds
from fedws.core.task_settings import EvalSettings, TrainSettings
from fedws.data.samples import ImageDataset
from fedws.protocol.evaluation_result import EvalResult
from fedws.split_learning.extraction import ExtractSettings
from fedws.split_learning.fine_tuning import FineTuneSettings
from fedws.split_learning.upload_progress import UploadSettings
from tests.helpers.protocol_example import fitted
from tests.helpers.protocol_fields import NEEDED, TYPES
from tests.helpers.protocol_page import TEXT, WORDS, section, table
from tests.helpers.support import REPOSITORY, registered_by_benchmarks

RANGES: dict[str, tuple[list[float], list[float]]] = {
    "any": ([], []),
    "≥ 1": ([1, 2**62], [0, -1]),
    "> 0, finite": ([1e-300, 1e300], [0.0, -1.0, float("inf"), float("nan")]),
    "> 0, ≤ 1": ([1e-300, 1.0], [0.0, 1.001, float("nan")]),
}
"""What a range takes and what it does not."""


@pytest.mark.parametrize(("title", "model"), [("Settings of", TrainSettings), ("`evaluate`", EvalSettings)])
def test_settings(title: str, model: type[BaseModel]) -> None:
    rows = table(section(title), "setting")
    assert [row["setting"] for row in rows] == list(model.model_fields)
    base = {name: "x" for name, field in model.model_fields.items() if field.is_required()}
    for row in rows:
        name, field = row["setting"], model.model_fields[row["setting"]]
        assert row["type"] == TYPES[field.annotation]
        text = field.default if isinstance(field.default, str) else json.dumps(field.default, default=repr)
        assert row["when absent"] == (NEEDED if field.is_required() else text)
        good, bad = RANGES[row["range"]]
        for value in good:
            model.model_validate({**base, name: value})
        for value in bad:
            with pytest.raises(ValidationError):
                model.model_validate({**base, name: value})
    with pytest.raises(ValidationError):
        model.model_validate({**base, "other": 1})


@pytest.mark.parametrize(
    ("title", "head", "model", "base"),
    [
        ("`mistnet.extract`", "setting", ExtractSettings, BaseModel),
        ("`mistnet.fine_tune`", "setting more", FineTuneSettings, ExtractSettings),
        ("`mistnet.upload`", "setting", UploadSettings, BaseModel),
    ],
)
def test_settings_of_mistnet(title: str, head: str, model: type[BaseModel], base: type[BaseModel]) -> None:
    rows = {name: row for row in table(section(title), head) for name in re.findall(r"\w+", row[head])}
    fields = {name: field for name, field in model.model_fields.items() if name not in base.model_fields}
    assert list(rows) == list(fields)
    for name, field in fields.items():
        assert rows[name]["when absent"] == (NEEDED if field.is_required() else json.dumps(field.default)), name


def test_metrics() -> None:
    metrics = {row["result"] for row in table(section("`fedavg.fit`"), "result")}
    assert {re.sub("[`]", "", m) for m in metrics} >= {f"metric {name}" for name in fitted().metrics}
    scored = [row["result"].replace("`", "") for row in table(section("`evaluate`"), "result")]
    assert [m.removeprefix("metric ") for m in scored if m.startswith("metric ")] == [
        field.name for field in dataclasses.fields(EvalResult)
    ]


@pytest.mark.parametrize("model", ["linear", "mlp", "mnist_cnn"])
def test_models(model: str) -> None:
    assert shapes(model) == {
        name: list(t.shape) for name, t in registry.build_piece("model", model).state_dict().items()
    }


def test_batch_norm_model() -> None:
    found = shapes("cifar_cnn")
    for name in [name for name in found if name.startswith("features.")]:
        norm = f"features.{int(name.split('.')[1]) + 1}"
        channels = found[name][:1]
        found |= {f"{norm}.{part}": channels for part in ("weight", "bias", "running_mean", "running_var")}
        found[f"{norm}.num_batches_tracked"] = []
    assert found == {name: list(t.shape) for name, t in registry.build_piece("model", "cifar_cnn").state_dict().items()}


def shapes(model: str) -> dict[str, list[int]]:
    """Names and shapes that the document gives a model."""
    (paragraph,) = re.findall(rf"^\*\*`{model}`\*\*.*?\n\n", TEXT, re.MULTILINE | re.DOTALL)
    return {name: json.loads(shape) for name, shape in re.findall(r"`([a-z0-9_.]+)`\s(\[[0-9, ]*\])", paragraph)}


@pytest.mark.parametrize("kind", ["model", "loss", "optimizer"])
def test_pieces_and_their_options(kind: str) -> None:
    text = section("8. Models")
    if kind == "model":
        documented = dict(re.findall(r"^\*\*`(\w+)`\*\*(.*?)\.", text, re.MULTILINE | re.DOTALL))
    else:
        documented = {row[kind].split(",")[0].strip("`"): row[kind] for row in table(text, kind)}
    others = registered_by_benchmarks()  # by a file of tests that another process runs
    assert sorted(documented) == [name for name in registry.list_pieces(kind) if (kind, name) not in others]
    for name, options in documented.items():
        parameters = inspect.signature(registry.find_piece(kind, name)).parameters.values()
        assert dict(re.findall(r"`(\w+)` \(([^)]*)\)", options)) == {
            parameter.name: str(parameter.default)
            for parameter in parameters
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        }


def test_normalisation_of_digits() -> None:
    from fedws.data.datasets.digits import Digits

    (row,) = (row for row in table(section("8. Models"), "dataset") if row["dataset"] == "digits")
    data = Digits(REPOSITORY, train=False)
    assert isinstance(data, ImageDataset)
    assert [float(row["mean"]), float(row["std"])] == pytest.approx([float(data.mean), float(data.std)])


def test_seed() -> None:
    assert f"the seed is {seeds.request_seed(1, 'alice', 1)}." in WORDS
