"""Splitting of a model into an extractor and a head.

A split point is after a module, and its name is the path of the module (``features.2``). All data must flow through the
output of the module. Operations that follow the module without being modules, such as ``functional.relu``, belong to
the head.
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
    """Return the names of all possible split points, in the order of the forward pass.

    Raises UsageError if the model cannot be traced.
    """
    return _TracedModel(module).find_split_points()


def resolve_split_point(module: nn.Module, split_at: str) -> str:
    """Return the path of the module after which ``split_at`` splits the model.

    Raises UsageError if it is not a possible split point; the error lists those.
    """
    return _TracedModel(module).resolve_split_point(split_at)


def split_model(module: nn.Module, split_at: str) -> tuple[nn.Module, nn.Module]:
    """Return the extractor and the head of ``module``.

    ``head(extractor(inputs))`` equals ``module(inputs)``, in training and in evaluation mode. ``split_at`` is a name
    from ``find_split_points``, or a number N, which selects child N, from 0, of the feature trunk. The trunk is
    ``module.features`` if that is a Sequential. Otherwise it is the module itself if that is a Sequential, and else
    the module's children in the order in which they run.

    The halves share the parameters and buffers of ``module``. Each tensor is in one half, under its name in
    ``module``; unused tensors are in the head. If ``module`` works in place, the head may modify its input. Raises
    UsageError if ``split_at`` is not a possible split point; the error lists those.
    """
    model = _TracedModel(module)
    return model.split(model.resolve_split_point(split_at))


class _TracedModel:
    """A model with the graphs of its forward passes in training and in evaluation mode."""

    def __init__(self, module: nn.Module) -> None:
        self.name = type(module).__name__
        self.module = _copy_sharing_tensors(module)
        self.state: dict[str, torch.Tensor] = self.module.state_dict(keep_vars=True)
        self.graphs = {mode: ForwardGraph(self.module.train(mode)) for mode in (True, False)}
        for copied, original in zip(self.module.modules(), module.modules(), strict=True):
            copied.training = original.training

    def find_split_points(self) -> list[str]:
        return [path for path in self.graphs[False].calls if not self.find_split_problem(path)]

    def find_split_problem(self, path: str) -> str:
        """Return why the model cannot be split after the module at ``path``, or an empty string."""
        for flow in self.graphs.values():
            if problem := flow.find_split_problem(path):
                return problem
        before, after = self.split_tensors(path)
        if not before.isdisjoint(after):
            return "both halves would use the same weights"
        for side, tensors in (("before", before), ("after", after)):
            if not any(isinstance(tensor, nn.Parameter) for tensor in tensors):
                return f"no weights {side} it"
        return ""

    def split_tensors(self, path: str) -> tuple[set[torch.Tensor], set[torch.Tensor]]:
        """Return the tensors of the state that are used up to the end of the module at ``path``, and those used after.

        A tensor counts as used if either mode uses it.
        """
        before: set[torch.Tensor] = set()
        after: set[torch.Tensor] = set()
        for flow in self.graphs.values():
            for used, nodes in zip((before, after), flow.split_nodes(path), strict=True):
                used.update(*(flow.tensors_used[node] for node in nodes))
        state = set(self.state.values())
        return before & state, after & state

    def resolve_split_point(self, split_at: str) -> str:
        """Return the path of the module after which ``split_at`` splits the model.

        Raises UsageError if it is not a possible split point.
        """
        modules = dict(self.module.named_modules(remove_duplicate=False))
        path = split_at if split_at in modules else self.number_trunk_children().get(split_at, "")
        if path:  # a module may have several names; the graph has the first one
            path = next(name for name, module in modules.items() if module is modules[path])
        problem = self.find_split_problem(path) if path else "unknown split point"
        if not problem:
            return path
        names = self.find_split_points()
        near = difflib.get_close_matches(split_at, names, n=3, cutoff=0.5)
        listed = ", ".join([*near, *(name for name in names if name not in near)])
        hint = f"choose from {listed}" if listed else "the model has no split points"
        raise UsageError(f"--split-at {split_at}: {problem} in {self.name}; {hint}")

    def number_trunk_children(self) -> dict[str, str]:
        """Return the paths of the children of the feature trunk, by number."""
        features = getattr(self.module, "features", None)
        if isinstance(features, nn.Sequential):
            paths = [f"features.{name}" for name in features._modules]
        elif isinstance(self.module, nn.Sequential):
            paths = list(self.module._modules)
        else:
            paths = [path for path in self.graphs[False].calls if "." not in path]
        return {str(number): path for number, path in enumerate(paths)}

    def split(self, path: str) -> tuple[nn.Module, nn.Module]:
        """Return the extractor and the head for the split after the module at ``path``."""
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
    """One half of a split model: a graph for each mode, and the part of ``model`` that the graphs use.

    It also has the entries ``names`` of the model's state.
    """

    def __init__(self, model: nn.Module, graphs: Mapping[bool, fx.Graph], names: Sequence[str]) -> None:
        super().__init__()
        model = _copy_sharing_tensors(model)
        self.training = model.training
        self._forward = {mode: type(fx.GraphModule(model, graph)).forward for mode, graph in graphs.items()}
        nodes = [node for graph in graphs.values() for node in graph.nodes]
        called = [str(node.target) for node in nodes if node.op == "call_module"]
        fetched = [str(node.target) for node in nodes if node.op == "get_attr"]
        owners = [next((path for path in called if name.startswith(f"{path}.")), name) for name in names]
        for path in dict.fromkeys([*owners, *called, *fetched]):  # keeps the order of the state
            self._attach(model, path, persistent=path in names)

    def forward(self, *inputs: Any) -> Any:
        """Return the output of this half."""
        return self._forward[self.training](self, *inputs)

    def _attach(self, model: nn.Module, path: str, persistent: bool) -> None:
        """Attach a module or tensor of ``model`` under the same path, inside modules that only contain it."""
        half: nn.Module = self
        *parents, name = path.split(".")
        for outer in parents:
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
    """Return a graph of ``nodes``.

    The value of ``input_node``, if given, is the input, and that of ``output_node``, if given, is the output.
    """
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
    """Return a copy of ``module`` whose modules have their own mode and share the parameters and buffers."""
    return copy.deepcopy(module, {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())})
