"""The pieces of ``examples/coco128_mistnet``: its data set, its model and loss, its measure."""

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from fedws.core import registry
from fedws.core.errors import UsageError
from fedws.core.plugins import load_plugin
from fedws.data import loading, partitioning, targets
from fedws.split_learning import model_split
from fedws.training import model_building
from tests.helpers.support import REPOSITORY, require

FOLDER = REPOSITORY / "examples" / "coco128_mistnet"


@pytest.fixture(scope="module")
def pieces() -> Iterator[Any]:
    """What the example's plugins define; they leave no trace for other tests."""
    before = dict(registry._pieces)
    found: dict[str, Any] = {}
    for name in ("coco128", "ssdlite"):
        load_plugin(FOLDER / f"{name}.py")
        found |= vars(sys.modules[f"fedws_plugin_{name}"])
    yield SimpleNamespace(**found)
    registry._pieces.clear()
    registry._pieces.update(before)
    for name in ("coco128", "ssdlite"):
        del sys.modules[f"fedws_plugin_{name}"]


@pytest.fixture(scope="module")
def outputs(pieces: Any) -> torch.Tensor:
    """What a fresh model tells of two pictures."""
    with torch.inference_mode():
        told: torch.Tensor = model_building.build_model("ssdlite", seed=1).eval()(pictures(2) * 2 - 1)
    return told


def pictures(count: int) -> torch.Tensor:
    """Noise, from 0 to 1."""
    return torch.rand(count, 3, 320, 320, generator=torch.Generator().manual_seed(1))


# ------------------------------------------------------------------ the data set


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four pictures: the last is grey, the third has no boxes and the first has no label file."""
    for number, (mode, size) in enumerate([("RGB", (60, 40)), ("RGB", (40, 60)), ("RGB", (8, 8)), ("L", (50, 33))], 1):
        grey = (60 * number,) * 3 if mode == "RGB" else 60 * number
        Image.new(mode, size, grey).save(place(tmp_path, f"images/train2017/{number}.jpg"), quality=100)
    label(tmp_path, 2, "7 0.5 0.5 0.6 0.4\n3 0.25 0.5 0.5 1\n")
    label(tmp_path, 3, "")
    label(tmp_path, 4, "79 0.9 0.8 0.1 0.2\n")
    label(tmp_path, 5, "no picture, so never read")
    return tmp_path


def place(root: Path, name: str) -> Path:
    file = root / "coco128" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def label(root: Path, number: int, text: str) -> None:
    place(root, f"labels/train2017/{number}.txt").write_text(text)


def test_the_first_half_is_public_and_the_second_the_edges(pieces: Any, root: Path) -> None:
    public, edges = (loading.load_dataset(f"coco128{part}", str(root), True) for part in (":public", ""))
    assert len(public) == len(edges) == 2
    assert [round(float((edges[index][0].mean() + 1) * 127.5)) for index in range(2)] == [180, 240]
    for data in (public, edges):
        for index in range(2):
            picture, boxes = data[index]
            assert picture.shape == (3, 320, 320) and picture.dtype == torch.float32
            assert boxes.shape == (64, 5) and boxes.dtype == torch.float32
    assert torch.equal(edges[1][0][0], edges[1][0][2]), "a grey picture has three equal channels"


def test_boxes_are_as_the_files_tell_and_the_rest_is_padding(pieces: Any, root: Path) -> None:
    public, edges = (loading.load_dataset(f"coco128{part}", str(root), True) for part in (":public", ""))
    padding = torch.tensor([-1.0, 0, 0, 0, 0])
    assert public[1][1][:2].tolist() == torch.tensor([[7, 0.5, 0.5, 0.6, 0.4], [3, 0.25, 0.5, 0.5, 1]]).tolist()
    for boxes, known in ((public[0][1], 0), (public[1][1], 2), (edges[0][1], 0), (edges[1][1], 1)):
        assert (boxes[known:] == padding).all() and (boxes[:known, 0] >= 0).all()


def test_partitions_go_by_the_largest_box(pieces: Any, root: Path) -> None:
    for part, expected in ((":public", [80, 3]), ("", [80, 79])):
        labels = targets.find_labels(loading.load_dataset(f"coco128{part}", str(root), True))
        assert labels is not None and labels.dtype == torch.int64 and labels.tolist() == expected
    edges = loading.load_dataset("coco128", str(root), True)
    shares = [partitioning.select_share(edges, "coco128", "iid", share, 2) for share in range(2)]
    assert sorted(int(share[0][1][0, 0]) for share in shares) == [-1, 79]


@pytest.mark.parametrize(
    "line",
    [
        "1 0.5 0.5 0.5",
        "x 0 0 1 1",
        "80 0.5 0.5 1 1",
        "-1 0.5 0.5 1 1",
        "1.5 0.5 0.5 1 1",
        "1 2 0 1 1",
        "1 0 0 0 1",
        "1 0 0 nan 1",
    ],
)
def test_a_line_that_is_no_box_is_named(pieces: Any, root: Path, line: str) -> None:
    label(root, 3, f"1 0.5 0.5 1 1\n{line}\n")
    with pytest.raises(UsageError, match=r"3\.txt, line 2: expected class, x, y, width, height, got '.*'"):
        loading.load_dataset("coco128", str(root), True)


def test_too_many_boxes_are_told(pieces: Any, root: Path) -> None:
    label(root, 3, "1 0.5 0.5 1 1\n" * 65)
    with pytest.raises(UsageError, match=r"3\.txt: 65 boxes exceed the limit of 64"):
        loading.load_dataset("coco128", str(root), True)


def test_where_the_data_set_goes_is_told(pieces: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"coco128 not found in .*; unpack Ultralytics' coco128 there"):
        loading.load_dataset("coco128", str(tmp_path), True)


# ------------------------------------------------------------------ the model


def test_it_is_cut_in_the_features_and_composes_to_itself(pieces: Any) -> None:
    model, batch = model_building.build_model("ssdlite", seed=1).eval(), pictures(1) * 2 - 1
    known = [cut for cut in model_split.find_split_points(model) if cut.startswith("backbone.features.0")]
    assert {"backbone.features.0.0", "backbone.features.0.4", "backbone.features.0.13", "backbone.features.0"} <= set(
        known
    )
    with torch.inference_mode():
        whole = model(batch)
        for cut in ("backbone.features.0.0.0", "backbone.features.0.4", "backbone.features.0"):
            extractor, head = model_split.split_model(model, cut)
            assert torch.equal(head(extractor(batch)), whole), cut


def theirs(pieces: Any) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Torchvision's whole detector, and the model with the same weights."""
    detector, model = pieces._build_detector(), model_building.build_model("ssdlite", seed=1)
    assert type(detector) is type(ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None))
    detector.load_state_dict(model.state_dict())
    return detector, model


TARGETS = torch.zeros(2, 4, 5)
TARGETS[:, :, 0] = -1
TARGETS[0, :2] = torch.tensor([[0, 0.5, 0.5, 0.25, 0.5], [79, 0.3, 0.4, 0.6, 0.5]])
"""Two boxes in the first of two pictures, none in the second."""
CORNERS = torch.tensor([[120.0, 80, 200, 240], [0, 48, 192, 208]])
"""The same two in pixels."""


def test_the_loss_is_torchvisions(pieces: Any) -> None:
    detector, model = theirs(pieces)
    images = pictures(2)
    told = [
        {"boxes": CORNERS, "labels": torch.tensor([1, 80])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    expected = sum(detector.train()(list(images), told).values())
    loss = registry.build_piece("loss", "ssd")(model.train()(images * 2 - 1), TARGETS)
    assert loss.dim() == 0
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)


def test_what_is_detected_is_torchvisions(pieces: Any) -> None:
    detector, model = theirs(pieces)
    images = pictures(2)
    with torch.inference_mode():
        expected, found = detector.eval()(list(images)), pieces.detect(model.eval()(images * 2 - 1))
    for one, other in zip(found, expected, strict=True):
        assert len(one["scores"]) == len(other["scores"]) == 300
        torch.testing.assert_close(one["scores"], other["scores"], rtol=1e-4, atol=1e-6)


def test_padding_and_rows_that_are_no_box_make_no_difference(pieces: Any, outputs: torch.Tensor) -> None:
    loss = registry.build_piece("loss", "ssd")
    other = TARGETS.clone()
    other[1] = torch.tensor([[80, 0.5, 0.5, 1, 1], [-7, 0.5, 0.5, 1, 1], [torch.nan, 0, 0, 1, 1], [3, 0.5, 0.5, 0, 1]])
    assert torch.equal(loss(outputs, other), loss(outputs, TARGETS))
    assert torch.equal(loss(outputs, TARGETS[:, :2]), loss(outputs, TARGETS))
    other[1, 0, 0] = 79
    assert not torch.equal(loss(outputs, other), loss(outputs, TARGETS))


def test_building_the_loss_leaves_no_mark_on_chance(pieces: Any, outputs: torch.Tensor) -> None:
    pieces._get_detector.cache_clear()
    before = torch.get_rng_state()
    registry.build_piece("loss", "ssd")(outputs, TARGETS)
    assert torch.equal(torch.get_rng_state(), before)


# ------------------------------------------------------------------ the measure


@pytest.fixture(scope="module")
def map50() -> Iterator[Any]:
    require(find_spec("pycocotools"), "pycocotools (fedws[examples]) is not here")
    load_plugin(FOLDER / "precision.py")  # which registers nothing
    yield sys.modules.pop("fedws_plugin_precision").map50


def marks(*rows: tuple[float, ...]) -> dict[str, torch.Tensor]:
    """Boxes of one picture: class, left, top, right, bottom, score."""
    table = torch.tensor(rows).reshape(-1, 6)
    return {"labels": table[:, 0].to(torch.int64), "boxes": table[:, 1:5], "scores": table[:, 5]}


TRUE = [marks((1, 0, 0, 10, 10, 1), (1, 20, 20, 40, 40, 1)), marks((2, 5, 5, 9, 9, 1)), marks()]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (TRUE, 1.0),
        ([marks(), marks(), marks()], 0.0),
        ([TRUE[0], marks((1, 5, 5, 9, 9, 1)), marks()], 0.5),  # class 2 is never found
        ([marks((1, 0, 0, 10, 10, 0.9)), TRUE[1], marks()], (51 / 101 + 1) / 2),  # recall ends at 1/2
        ([TRUE[0], marks((2, 5, 5, 9, 9, 0.4), (2, 0, 0, 3, 3, 0.9)), marks()], (1 + 1 / 2) / 2),  # one wrong before it
        ([TRUE[0], marks((2, 5, 5, 9, 6.9, 1)), marks()], 0.5),  # they overlap by less than a half
        ([TRUE[0], marks((2, 5, 5, 9, 7.1, 1)), marks((3, 0, 0, 9, 9, 1))], 1.0),  # by more; class 3 is in no picture
    ],
)
def test_map50_by_hand(map50: Any, found: Any, expected: float, capsys: pytest.CaptureFixture[str]) -> None:
    assert map50(found, TRUE) == pytest.approx(expected)
    assert capsys.readouterr().out == ""
