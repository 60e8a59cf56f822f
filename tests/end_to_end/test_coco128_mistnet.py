"""``examples/coco128_mistnet``: the one command, short; its end by Ctrl+C; and what it says without its pictures."""

import os
import re
import signal
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from fedws.split_learning import pretrained_file
from tests.helpers.processes import SECONDS, Processes, assert_one_line
from tests.helpers.support import REPOSITORY, recorded, require

SCRIPT = "examples/coco128_mistnet/run.py"
SHORT = ("--pretrain-epochs", "1", "--server-epochs", "2", "--output", "out")


@pytest.fixture
def ready(given: Processes) -> Processes:
    """Commands where the pictures are."""
    require(find_spec("pycocotools"), "pycocotools (fedws[examples]) is not here")
    places = [os.environ.get("FEDWS_DATA", ""), str(REPOSITORY.parent / "shared" / "data")]
    root = next((place for place in places if place and (Path(place) / "coco128").is_dir()), None)
    require(root, "coco128 is not here (neither in FEDWS_DATA nor in ../shared/data)")
    given.environment["FEDWS_DATA"] = str(root)
    return given


@pytest.mark.long
def test_it_learns_from_two_edges_and_says_what_has_left_them(ready: Processes) -> None:
    run = ready.start(SCRIPT, *SHORT)
    for done in ("epoch 1/1", "on 64 test samples"):  # each takes seconds, and there is patience for each
        run.line(done)
    for name in ("edge1", "edge2"):
        run.line(f"^{name} is serving at ws://localhost:[0-9]+$")
        run.line(f"{name} extracted 32 records of 64000 features \\(40 x 40 x 40\\), 0.3 MB$")
    run.line("Loss on the noisy bits: ")
    assert run.end() == 0 and run.errors == [], run.everything
    said = "\n".join(run.lines)
    assert "evaluated on the training pictures" in said and "Not private: every box and its class" in said
    assert "Privacy: epsilon 2 for each of a record's 64000 features and its label in clear; no bound for" in said
    rows = re.findall(r"^  (?:pretrained|the same|trained).* (\d+\.\d\d) +\d+\.\d\d %$", said, re.MULTILINE)
    assert len(rows) == 3
    first, last = recorded(ready.folder / "out" / "run", "round")
    assert last["loss"] < first["loss"] and last["num_examples"] == 64
    assert 64 * 8000 < first["bytes_received"] < 1.1 * 64 * (8000 + 64 * 5 * 4)


@pytest.mark.long
def test_ctrl_c_ends_all_that_it_started(ready: Processes) -> None:
    fresh = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=81).state_dict()
    origin = pretrained_file.PretrainedInfo("ssdlite", "none", 0, [3, 320, 320], 0, label_format="float32 [64, 5]")
    pretrained_file.save_pretrained(ready.folder / "fresh.safetensors", pretrained_file.build_pretrained(fresh, origin))
    run = ready.start(SCRIPT, "--pretrained", "fresh.safetensors", "--server-epochs", "99", "--output", "out")
    run.line("extracted 32 records of 64000 features")
    started = psutil.Process(run.pid).children(recursive=True)
    assert len(started) == 3, "two edges, and the coordinator's training"
    run.send(signal.SIGINT)
    assert run.end(SECONDS) == 130, run.everything
    _, alive = psutil.wait_procs(started, timeout=SECONDS)
    assert alive == []


def test_without_the_pictures_it_is_one_line(given: Processes) -> None:
    require(find_spec("pycocotools"), "pycocotools (fedws[examples]) is not here")
    given.environment["FEDWS_DATA"] = str(given.folder)
    assert_one_line(given.start(SCRIPT, *SHORT), "coco128 not found in .*; unpack Ultralytics' coco128 there", 2)
    assert not (given.folder / "out").exists()


@pytest.mark.parametrize(
    ("flags", "pattern", "status"),
    [
        pytest.param("--epsilon 3", "policy: epsilon 3 requested, at most 2 allowed", 1, marks=pytest.mark.long),
        ("--split-at head", "--split-at head: .*; choose from .*backbone.features.0.4", 2),
    ],
)
def test_what_cannot_work_is_told_before_the_work(ready: Processes, flags: str, pattern: str, status: int) -> None:
    assert_one_line(ready.start(SCRIPT, *SHORT, *flags.split()), pattern, status)
    assert not (ready.folder / "out").exists()
