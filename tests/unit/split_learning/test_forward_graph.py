"""What torch.fx sees of a forward pass, and what it must not disturb."""

import threading

import pytest
import torch
from torch import nn

from fedws.core.errors import UsageError
from fedws.split_learning.forward_graph import ForwardGraph


class Branching(nn.Module):
    """Its way depends on the data."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(2, 2), Branching(), nn.Linear(2, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x).relu()  # type: ignore[no-any-return]


def test_nodes_are_in_the_order_in_which_they_run() -> None:
    flow = ForwardGraph(Nested())
    assert [node.target for node in flow.nodes] == ["x", "inner.0", "inner.1", "inner.2", "relu", "output"]
    assert list(flow.calls) == ["inner.0", "inner.1", "inner.2", "inner"]
    before, after = flow.split_nodes("inner.1")
    assert [node.target for node in before] == ["x", "inner.0", "inner.1"] and before + after == flow.nodes


def test_a_node_uses_the_tensors_of_its_module() -> None:
    module = Nested()
    flow = ForwardGraph(module)
    assert (
        flow.tensors_used[flow.nodes[1]] == set(module.inner[0].parameters())
        and flow.tensors_used[flow.nodes[4]] == set()
    )


def test_a_module_that_cannot_be_traced_is_whole() -> None:
    module = nn.Sequential(nn.Linear(2, 2), Nested(), Branching(), nn.Sequential(Nested()))
    assert list(ForwardGraph(module).calls) == [
        "0", "1.inner.0", "1.inner.1", "1.inner.2", "1.inner", "1", "2",
        "3.0.inner.0", "3.0.inner.1", "3.0.inner.2", "3.0.inner", "3.0", "3",
    ]  # fmt: skip


def test_a_model_that_cannot_be_traced_is_refused_with_the_reason() -> None:
    with pytest.raises(UsageError, match=r"^cannot split Branching: torch.fx cannot trace it: .*control flow$"):
        ForwardGraph(Branching())


def test_what_fails_without_a_word_is_named() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise KeyError

    with pytest.raises(UsageError, match=r"^cannot split Broken: torch.fx cannot trace it: KeyError$"):
        ForwardGraph(Broken())


def test_what_is_computed_from_weights_and_buffers_alone_is_computed_each_time() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.tensor([1.0, 0.0]))
            self.weight = nn.Parameter(torch.ones(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * (self.mask * 2) * (self.weight + 1)  # type: ignore[operator]

    assert [node.name for node in ForwardGraph(Masked()).nodes] == ["x", "mul", "mul_1", "add", "mul_2", "output"]


def test_what_other_threads_run_meanwhile_just_runs() -> None:
    other, inputs, given = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval(), torch.randn(3, 2), []
    wanted = other(inputs)

    class Waiting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(2, 2)
            self.other = other

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            thread = threading.Thread(target=lambda: given.append(other(inputs)))
            thread.start()
            thread.join()
            return self.other(self.first(x))  # type: ignore[no-any-return]

    flow = ForwardGraph(Waiting())
    assert torch.equal(given[0], wanted)
    assert list(flow.calls) == ["first", "other.0", "other.1", "other"] and len(flow.nodes) == 5


def test_threads_trace_in_turn() -> None:
    before = nn.Module.__call__
    threads = [threading.Thread(target=ForwardGraph, args=(Nested(),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert nn.Module.__call__ is before
