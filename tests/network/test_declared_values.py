"""Nodes that declare, and runs that have stored, what no data set holds: an error or a remark, never a traceback."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import fedws
from fedws.core.untrusted_text import MAX_LINE_CHARS
from tests.helpers.federation import evaluating, settings, worker

pytestmark = pytest.mark.usefixtures("nobody_has_a_key", "every_line")
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a label far below 0": ({"labels": [-1000]}, "labels.0: "),
    "-1, which would count the last class": ({"labels": [-1, 3]}, "labels.0: "),
    "20,000 labels": ({"labels": list(range(20_000))}, "labels: "),
    "a label of no class": ({"labels": [3, 100_000]}, "labels.1: "),
    "a label twice": ({"labels": [3, 3]}, "labels: "),
    "labels that descend": ({"labels": [3, 1]}, "labels: "),
    "no samples": ({"num_examples": 0}, "num_examples: "),
    "samples below 0": ({"num_examples": -5}, "num_examples: "),
    "more samples than there can be": ({"num_examples": 2**40 + 1}, "num_examples: "),
    "a long name of its data set": ({"dataset": "x" * 500_000}, "dataset: "),
}


def claiming(**changes: Any) -> fedws.Worker:
    """A worker that declares what it wants to."""
    node = worker()
    node._welcome = replace(node._welcome, **changes)
    node.require_samples = lambda: None  # type: ignore[method-assign]
    return node


@pytest.mark.parametrize("what", WRONG)
async def test_a_welcome_that_cannot_be_ends_the_run_in_one_line(what: str, tmp_path: Path) -> None:
    changes, text = WRONG[what]
    async with (
        fedws.serve(claiming(**changes), "memory://alice"),
        fedws.serve(evaluating(), "memory://testing"),
    ):
        urls = {"alice": "memory://alice", "testing": "memory://testing"}
        with pytest.raises(fedws.RunFailed) as failed:
            await fedws.run(run_dir=tmp_path / "run", **settings(urls, rounds=1, max_message_bytes=2**30))
    assert str(failed.value).startswith(("alice at memory://alice: welcome: " + text, "alice at memory://alice: mess"))
    assert len(str(failed.value)) < 300 and str(failed.value).isprintable()
    assert not (tmp_path / "run").exists(), "nothing of it is stored"


async def test_labels_that_an_earlier_version_stored_are_dropped_with_a_remark(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    async with fedws.serve(claiming(labels=[]), "memory://alice"), fedws.serve(evaluating(), "memory://testing"):
        urls = {"alice": "memory://alice", "testing": "memory://testing"}
        await fedws.run(run_dir=run, **settings(urls, rounds=1))
        (run / "worker_labels.json").write_text(json.dumps({"alice": [-1000], "bob": [1, 2]}))
        with (run / "metrics.jsonl").open("a") as file:
            file.write('{"kind": "evaluation", "round": 1, "model": "alice", "num_examples": 0}\n')
        result = await fedws.run(resume=run, rounds=2)
    assert [record["round"] for record in result.evaluations()] == [1, 2]
    assert "worker_labels.json: the labels of alice were dropped (0: " in caplog.text
    assert "was dropped (accuracy: Field required" in caplog.text


async def test_a_record_of_a_finished_run_that_cannot_be_is_named(tmp_path: Path) -> None:
    async with fedws.serve(worker(), "memory://alice"):
        await fedws.run(run_dir=tmp_path / "run", **settings({"alice": "memory://alice"}, rounds=1))
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "evaluation", "round": "1"}\n')
    with pytest.raises(fedws.UsageError, match=r"metrics\.jsonl: line 2 is not a valid record: .*; remove the line$"):
        await fedws.run(resume=tmp_path / "run")


@pytest.mark.parametrize("data", [b"", b"x", bytes(64)])
async def test_a_model_of_a_finished_run_that_cannot_be_is_a_line(data: bytes, tmp_path: Path) -> None:
    async with fedws.serve(worker(), "memory://alice"):
        await fedws.run(run_dir=tmp_path / "run", **settings({"alice": "memory://alice"}, rounds=1))
    (tmp_path / "run" / "model.safetensors").write_bytes(data)
    with pytest.raises(fedws.RunFailed, match=r"cannot read .*model\.safetensors: .*; resume with more "):
        await fedws.run(resume=tmp_path / "run")


async def test_many_labels_make_a_short_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As many as can be declared, and no two of them neighbours."""
    node = claiming(labels=list(range(0, 2000, 2)))
    async with fedws.serve(node, "memory://alice"), fedws.serve(evaluating(), "memory://testing"):
        urls = {"alice": "memory://alice", "testing": "memory://testing"}
        await fedws.run(run_dir=tmp_path / "run", **settings(urls, rounds=1))
    (shares,) = (text for text in caplog.messages if text.startswith("Federated model: Percentage"))
    assert "... (1000 labels)" in shares and len(shares) < 200 < MAX_LINE_CHARS


@pytest.mark.parametrize("way", [fedws.serve, fedws.join_run])
async def test_a_node_without_samples_is_a_line_at_its_start(way: Any) -> None:
    node = fedws.Worker("alice", "points", [])
    with pytest.raises(fedws.UsageError, match=r"^alice has no samples of points; serve a node with at least 1$"):
        async with way(node, "memory://alice"):
            pass
