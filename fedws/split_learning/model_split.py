"""Cuts a model in two: an extractor, and a head that goes on from what the extractor gives.

A cut is after a module, inclusive, and is called by the module's path (``features.2``). All data must flow through
what that module gives. What follows it and is no module of its own, as ``functional.relu``, is in the head.
"""

import copy
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from fedws.core.errors import UsageError
from fedws.split_learning.forward_graph import ForwardGraph


def find_split_points(module: nn.Module) -> list[str]:
    """The names of all cuts that can be made, in the order of the forward pass. Raises UsageError."""
    return _TracedModel(module).find_split_points()


def resolve_split_point(module: nn.Module, split_at: str) -> str:
    """The path of the module after which ``split_at`` is. Raises UsageError, which lists the cuts."""
    return _TracedModel(module).resolve_split_point(split_at)


def split_model(module: nn.Module, split_at: str) -> tuple[nn.Module, nn.Module]:
    """Extractor and head, such that ``head(extractor(inputs))`` is ``module(inputs)``, in train and in eval mode.

    ``split_at`` is one of :func:`find_split_points`, or a number N: child N, from 0, of the feature trunk. That is
    ``module.features`` if it is a Sequential, else the module if it is one, else the module's children in the order in
    which they run.

    The two hold ``module``'s own parameters and buffers, each in one of them and under its name in ``module``; what
    is never used is in the head. Where ``module`` works in place, the head may write into what it is given.
    Raises UsageError, which lists the cuts.
    """
    model = _TracedModel(module)
    return model.split(model.resolve_split_point(split_at))


class _TracedModel:
    """A model and its forward passes."""

    def __init__(self, module: nn.Module) -> None:
        self.name = type(module).__name__
        self.module = _copy_sharing_tensors(module)
        self.state: dict[str, torch.Tensor] = self.module.state_dict(keep_vars=True)
        self.graphs = {mode: ForwardGraph(self.module.train(mode)) for mode in (True, False)}
        for ours, theirs in zip(self.module.modules(), module.modules(), strict=True):
            ours.training = theirs.training

    def find_split_points(self) -> list[str]:
        return [path for path in self.graphs[False].calls if not self.find_split_problem(path)]

    def find_split_problem(self, path: str) -> str:
        """Why there is no cut after the module at ``path``; empty when there is."""
        for flow in self.graphs.values():
            if problem := flow.find_split_problem(path):
                return problem
        before, after = self.split_tensors(path)
        if not before.isdisjoint(after):
            return "both sides would use the same weights"
        for side, tensors in (("before", before), ("after", after)):
            if not any(isinstance(tensor, nn.Parameter) for tensor in tensors):
                return f"nothing {side} it has weights"
        return ""

    def split_tensors(self, path: str) -> tuple[set[torch.Tensor], set[torch.Tensor]]:
        """What of the state is used up to the end of the module at ``path``, and what after it, in either mode."""
        before: set[torch.Tensor] = set()
        after: set[torch.Tensor] = set()
        for flow in self.graphs.values():
            for used, nodes in zip((before, after), flow.split_nodes(path), strict=True):
                used.update(*(flow.tensors_used[node] for node in nodes))
        state = set(self.state.values())
        return before & state, after & state

    def resolve_split_point(self, split_at: str) -> str:
        """The path of the module after which ``split_at`` is. Raises UsageError when there is no such cut."""
        modules = dict(self.module.named_modules(remove_duplicate=False))
        path = split_at if split_at in modules else self.number_trunk_children().get(split_at, "")
        if path:  # a module may have several names; it runs under its first
            path = next(name for name, module in modules.items() if module is modules[path])
        problem = self.find_split_problem(path) if path else "there is no such cut"
        if not problem:
            return path
        names = self.find_split_points()
        near = difflib.get_close_matches(split_at, names, n=3, cutoff=0.5)
        listed = ", ".join([*near, *(name for name in names if name not in near)]) or "none"
        raise UsageError(f"--split-at {split_at}: {problem} in {self.name}; there are: {listed}")

    def number_trunk_children(self) -> dict[str, str]:
        """The paths of the feature trunk's children, by number."""
        features = getattr(self.module, "features", None)
        if isinstance(features, nn.Sequential):
            paths = [f"features.{name}" for name in features._modules]
        elif isinstance(self.module, nn.Sequential):
            paths = list(self.module._modules)
        else:
            paths = [path for path in self.graphs[False].calls if "." not in path]
        return {str(number): path for number, path in enumerate(paths)}

    def split(self, path: str) -> tuple[nn.Module, nn.Module]:
        """Extractor and head of the cut after the module at ``path``."""
        extracted, _ = self.split_tensors(path)
        names = [name for name, tensor in self.state.items() if tensor in extracted]
        extractor, head = {}, {}
        for mode, flow in self.graphs.items():
            before, after = flow.split_nodes(path)
            given = flow.calls[path][0].output
            extractor[mode], head[mode] = _build_graph(before, output_node=given), _build_graph(after, input_node=given)
        rest = [name for name in self.state if name not in names]
        return _ModelHalf(self.module, extractor, names), _ModelHalf(self.module, head, rest)


class _ModelHalf(nn.Module):
    """One side of a cut: a graph for each mode, and of ``model`` what they use and what ``names`` of its state say."""

    def __init__(self, model: nn.Module, graphs: Mapping[bool, fx.Graph], names: Sequence[str]) -> None:
        super().__init__()
        model = _copy_sharing_tensors(model)
        self.training = model.training
        self._forward = {mode: type(fx.GraphModule(model, graph)).forward for mode, graph in graphs.items()}
        nodes = [node for graph in graphs.values() for node in graph.nodes]
        called = [str(node.target) for node in nodes if node.op == "call_module"]
        fetched = [str(node.target) for node in nodes if node.op == "get_attr"]
        owners = [next((path for path in called if name.startswith(f"{path}.")), name) for name in names]
        for path in dict.fromkeys([*owners, *called, *fetched]):  # the state keeps its order
            self._attach(model, path, persistent=path in names)

    def forward(self, *inputs: Any) -> Any:
        """What this side makes of what goes in."""
        return self._forward[self.training](self, *inputs)

    def _attach(self, model: nn.Module, path: str, persistent: bool) -> None:
        """Hold a module or tensor of ``model`` under the same path; around it are modules that only hold."""
        half: nn.Module = self
        *around, name = path.split(".")
        for outer in around:
            if outer not in half._modules:
                half.add_module(outer, nn.Module())
            half, model = half.get_submodule(outer), model.get_submodule(outer)
        if name in model._buffers:
            half.register_buffer(name, model._buffers[name], persistent=persistent)
        else:
            setattr(half, name, getattr(model, name))


def _build_graph(
    nodes: Sequence[fx.Node], input_node: fx.Node | None = None, output_node: fx.Node | None = None
) -> fx.Graph:
    """A graph of ``nodes`` alone. If need be, what ``input_node`` gives goes in, or what ``output_node`` gives comes
    out."""
    graph = fx.Graph()
    copies = {} if input_node is None else {input_node: graph.placeholder("features")}
    for node in nodes:
        for fetched in node.all_input_nodes:
            if fetched not in copies:
                copies[fetched] = graph.node_copy(fetched)
        copies[node] = graph.node_copy(node, copies.__getitem__)
    if output_node is not None:
        graph.output(copies[output_node])
    return graph


def _copy_sharing_tensors(module: nn.Module) -> nn.Module:
    """A copy whose modules have a mode of their own, around the same parameters and buffers."""
    return copy.deepcopy(module, {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())})
