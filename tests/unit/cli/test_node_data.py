"""Which samples a node takes by its flags, and what it prints of them."""

from argparse import Namespace
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import Subset, TensorDataset

from fedws.cli.node_data import load_node_data, print_node_data
from fedws.core import registry
from fedws.core.errors import UsageError
from fedws.data.targets import find_labels
from fedws.node.worker import Worker


def labelled(targets: Any) -> Any:
    """Sixty samples."""
    data: Any = TensorDataset(torch.zeros(60, 4), torch.arange(60))
    data.targets = targets
    return data


NUMBERS = torch.arange(60) % 12
OWN = {
    "plain": labelled(NUMBERS),
    "bools": labelled((NUMBERS % 2 == 1).tolist()),
    "text": labelled(["cat"] * 60),
    "several": labelled(torch.zeros(60, 3)),
    "bare": TensorDataset(torch.zeros(60, 4), torch.zeros(60, 1)),
    "subset": Subset(labelled(NUMBERS), range(0, 60, 2)),
}


@pytest.fixture(autouse=True)
def own() -> Iterator[None]:
    """Data sets of the user's own."""
    for name, data in OWN.items():
        registry.register("dataset", name)(lambda root, train, data=data: data)
    yield
    for name in OWN:
        registry._pieces.pop(("dataset", name))


def flags(node: str = "dora", **given: Any) -> Namespace:
    found = {
        "labels": None,
        "partition": None,
        "share": None,
        "is_evaluator": False,
        "partition_seed": 1,
        "data_dir": None,
    }
    return Namespace(id=node, **{**found, **given})


@pytest.mark.parametrize("node", ["dora", "alice", "charlie"])
@pytest.mark.parametrize("dataset", OWN)
def test_a_data_set_of_one_s_own_is_held_whole(dataset: str, node: str, capsys: pytest.CaptureFixture[str]) -> None:
    held = load_node_data(flags(node), dataset)
    assert held.data is OWN[dataset] and held.declared_labels is None
    print_node_data(flags(node), dataset, held)
    size = len(OWN[dataset])
    said = f"{node} holds all {size} samples; use --labels or --partition to select a part"
    assert capsys.readouterr().out.splitlines().count(said) == 1
    known = find_labels(OWN[dataset])
    declared = [] if known is None else sorted(set(known.tolist()))
    assert Worker(node, dataset, held.data, labels=held.declared_labels)._welcome.labels == declared


@pytest.mark.parametrize("dataset", OWN)
def test_an_evaluator_needs_no_labels(dataset: str, capsys: pytest.CaptureFixture[str]) -> None:
    held = load_node_data(flags("testing", is_evaluator=True), dataset)
    assert held.data is OWN[dataset]
    print_node_data(flags("testing", is_evaluator=True), dataset, held)
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{dataset} dataset (test set), ")
    assert last == f"len(datasets[{dataset}_testing]): {len(OWN[dataset])}"


@pytest.mark.parametrize("dataset", OWN)
def test_a_third_of_it_needs_no_labels(dataset: str) -> None:
    sizes = [len(load_node_data(flags(partition="iid", share=f"{share}/3"), dataset).data) for share in range(3)]
    assert sizes == [len(OWN[dataset]) // 3] * 3


@pytest.mark.parametrize(
    ("dataset", "why"),
    [
        ("bare", "it has no attribute targets"),
        ("several", r"its targets have the shape \[60, 3\]"),
        ("text", "its targets are text"),
    ],
)
@pytest.mark.parametrize("part", [{"partition": "dirichlet", "share": "0/2"}, {"labels": "0"}])
def test_a_part_by_label_needs_labels(dataset: str, why: str, part: dict[str, str]) -> None:
    text = f"^dataset {dataset} has no class labels: {why}; add an attribute targets with one class number"
    with pytest.raises(UsageError, match=text):
        load_node_data(flags(**part), dataset)


@pytest.mark.parametrize(
    ("dataset", "node", "known"), [("plain", "dora", range(12)), ("subset", "alice", range(0, 12, 2))]
)
def test_labels_choose_a_part(dataset: str, node: str, known: range) -> None:
    held = load_node_data(flags(node, labels="0-3"), dataset)
    found = find_labels(held.data)
    assert found is not None and sorted(set(found.tolist())) == [label for label in known if label < 4]
    assert held.label_counts == tuple(int((found == label).sum()) for label in range(known[-1] + 1))


def test_counts_are_those_of_the_part(capsys: pytest.CaptureFixture[str]) -> None:
    given = flags(partition="iid", share="0/2")
    print_node_data(given, "bools", load_node_data(given, "bools"))
    first, *counts, _, last = capsys.readouterr().out.splitlines()
    assert first == "bools dataset (train set), available numbers on dora:"
    numbers = [int(line.split(": ")[1]) for line in counts]
    assert [line.split(":")[0] for line in counts] == ["      0", "      1"] and sum(numbers) == 30
    assert last == "len(datasets[bools]): 30"


@pytest.mark.parametrize(
    ("dataset", "line"),
    [
        ("bare", "bare dataset (train set), no class labels on dora (the data set has no attribute targets)"),
        ("text", "text dataset (train set), no class labels on dora (its targets are text)"),
    ],
)
def test_without_labels_the_reason_is_printed(dataset: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_node_data(flags(), dataset, load_node_data(flags(), dataset))
    first, *_, shown, _ = capsys.readouterr().out.splitlines()
    assert first == line and " at 0x" not in shown


def test_a_data_set_that_ships_is_split_as_before() -> None:
    with pytest.raises(UsageError, match=r"^dora has no default labels, unlike alice, bob, charlie; "):
        load_node_data(flags(), "digits")
    held = load_node_data(flags("bob"), "digits")
    found = find_labels(held.data)
    assert held.declared_labels == (4, 5, 6) and found is not None and set(found.tolist()) == {4, 5, 6}
    assert not held.all_by_default
