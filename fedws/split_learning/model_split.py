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
from fedws.split_learning.forward_graph import Flow


def cuts(module: nn.Module) -> list[str]:
    """The names of all cuts that can be made, in the order of the forward pass. Raises UsageError."""
    return _Model(module).cuts()


def resolved(module: nn.Module, cut: str) -> str:
    """The path of the module after which ``cut`` is. Raises UsageError, which lists the cuts."""
    return _Model(module).find(cut)


def split(module: nn.Module, cut: str) -> tuple[nn.Module, nn.Module]:
    """Extractor and head, such that ``head(extractor(inputs))`` is ``module(inputs)``, in train and in eval mode.

    ``cut`` is one of :func:`cuts`, or a number N: child N, from 0, of the feature trunk. That is ``module.features``
    if it is a Sequential, else the module if it is one, else the module's children in the order in which they run.

    The two hold ``module``'s own parameters and buffers, each in one of them and under its name in ``module``; what
    is never used is in the head. Where ``module`` works in place, the head may write into what it is given.
    Raises UsageError, which lists the cuts.
    """
    model = _Model(module)
    return model.split(model.find(cut))


class _Model:
    """A model and its forward passes."""

    def __init__(self, module: nn.Module) -> None:
        self.name = type(module).__name__
        self.module = _twin(module)
        self.state: dict[str, torch.Tensor] = self.module.state_dict(keep_vars=True)
        self.flows = {mode: Flow(self.module.train(mode)) for mode in (True, False)}
        for ours, theirs in zip(self.module.modules(), module.modules(), strict=True):
            ours.training = theirs.training

    def cuts(self) -> list[str]:
        return [path for path in self.flows[False].calls if not self.problem(path)]

    def problem(self, path: str) -> str:
        """Why there is no cut after the module at ``path``; empty when there is."""
        for flow in self.flows.values():
            if problem := flow.problem(path):
                return problem
        before, after = self.tensors(path)
        if not before.isdisjoint(after):
            return "both sides would use the same weights"
        for side, tensors in (("before", before), ("after", after)):
            if not any(isinstance(tensor, nn.Parameter) for tensor in tensors):
                return f"nothing {side} it has weights"
        return ""

    def tensors(self, path: str) -> tuple[set[torch.Tensor], set[torch.Tensor]]:
        """What of the state is used up to the end of the module at ``path``, and what after it, in either mode."""
        before: set[torch.Tensor] = set()
        after: set[torch.Tensor] = set()
        for flow in self.flows.values():
            for used, nodes in zip((before, after), flow.sides(path), strict=True):
                used.update(*(flow.uses[node] for node in nodes))
        state = set(self.state.values())
        return before & state, after & state

    def find(self, cut: str) -> str:
        """The path of the module after which ``cut`` is. Raises UsageError when there is no such cut."""
        modules = dict(self.module.named_modules(remove_duplicate=False))
        path = cut if cut in modules else self.numbered().get(cut, "")
        if path:  # a module may have several names; it runs under its first
            path = next(name for name, module in modules.items() if module is modules[path])
        problem = self.problem(path) if path else "there is no such cut"
        if not problem:
            return path
        names = self.cuts()
        near = difflib.get_close_matches(cut, names, n=3, cutoff=0.5)
        listed = ", ".join([*near, *(name for name in names if name not in near)]) or "none"
        raise UsageError(f"--cut {cut}: {problem} in {self.name}; there are: {listed}")

    def numbered(self) -> dict[str, str]:
        """The paths of the feature trunk's children, by number."""
        features = getattr(self.module, "features", None)
        if isinstance(features, nn.Sequential):
            paths = [f"features.{name}" for name in features._modules]
        elif isinstance(self.module, nn.Sequential):
            paths = list(self.module._modules)
        else:
            paths = [path for path in self.flows[False].calls if "." not in path]
        return {str(number): path for number, path in enumerate(paths)}

    def split(self, path: str) -> tuple[nn.Module, nn.Module]:
        """Extractor and head of the cut after the module at ``path``."""
        extracted, _ = self.tensors(path)
        names = [name for name, tensor in self.state.items() if tensor in extracted]
        extractor, head = {}, {}
        for mode, flow in self.flows.items():
            before, after = flow.sides(path)
            given = flow.calls[path][0].given
            extractor[mode], head[mode] = _graph(before, ends=given), _graph(after, begins=given)
        others = [name for name in self.state if name not in names]
        return _Half(self.module, extractor, names), _Half(self.module, head, others)


class _Half(nn.Module):
    """One side of a cut: a graph for each mode, and of ``model`` what they use and what ``names`` of its state say."""

    def __init__(self, model: nn.Module, graphs: Mapping[bool, fx.Graph], names: Sequence[str]) -> None:
        super().__init__()
        model = _twin(model)
        self.training = model.training
        self._forward = {mode: type(fx.GraphModule(model, graph)).forward for mode, graph in graphs.items()}
        nodes = [node for graph in graphs.values() for node in graph.nodes]
        called = [str(node.target) for node in nodes if node.op == "call_module"]
        fetched = [str(node.target) for node in nodes if node.op == "get_attr"]
        owners = [next((path for path in called if name.startswith(f"{path}.")), name) for name in names]
        for path in dict.fromkeys([*owners, *called, *fetched]):  # the state keeps its order
            self._take(model, path, persistent=path in names)

    def forward(self, *inputs: Any) -> Any:
        """What this side makes of what goes in."""
        return self._forward[self.training](self, *inputs)

    def _take(self, model: nn.Module, path: str, persistent: bool) -> None:
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


def _graph(nodes: Sequence[fx.Node], begins: fx.Node | None = None, ends: fx.Node | None = None) -> fx.Graph:
    """A graph of ``nodes`` alone. If need be, what ``begins`` gives goes in, or what ``ends`` gives comes out."""
    graph = fx.Graph()
    copies = {} if begins is None else {begins: graph.placeholder("features")}
    for node in nodes:
        for fetched in node.all_input_nodes:
            if fetched not in copies:
                copies[fetched] = graph.node_copy(fetched)
        copies[node] = graph.node_copy(node, copies.__getitem__)
    if ends is not None:
        graph.output(copies[ends])
    return graph


def _twin(module: nn.Module) -> nn.Module:
    """A copy whose modules have a mode of their own, around the same parameters and buffers."""
    return copy.deepcopy(module, {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())})
