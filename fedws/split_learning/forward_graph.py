"""What a model does in its forward pass, as a graph of torch.fx."""

import threading
from collections.abc import Callable, Collection, Iterator
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from fedws.core.errors import UsageError
from fedws.core.untrusted_text import get_error_text

_trace_lock = threading.Lock()  # while torch.fx traces, methods of nn.Module are replaced, for all threads


class ModuleCall(NamedTuple):
    """One run of a module."""

    output: fx.Node | None
    """What it gave; None when that is not one value."""
    end_index: int
    """How many nodes there were when it ended. Those that work in place may come after the one that is given."""


class ForwardGraph:
    """A forward pass in the mode that ``module`` is in: node after node, from the inputs to the output.

    The nodes that fetch a tensor of the module are not counted; they come where they are needed. Tracing may add
    constants to ``module``. Raises UsageError when its own forward cannot be traced; a submodule that cannot, as one
    whose way depends on the data, is one node.
    """

    def __init__(self, module: nn.Module) -> None:
        tracer = _trace(module)
        self.nodes = [node for node in tracer.graph.nodes if _is_operation(node)]
        self.calls = tracer.calls
        """The runs of a module, by its path; those that end first are first."""
        self.tensors_used = {node: set(_find_tensors_used(module, node)) for node in self.nodes}
        """The tensors of the module that a node works with."""

    def split_nodes(self, path: str) -> tuple[list[fx.Node], list[fx.Node]]:
        """The nodes up to the end of the module at ``path``, and those after it."""
        return self.nodes[: self.calls[path][0].end_index], self.nodes[self.calls[path][0].end_index :]

    def find_split_problem(self, path: str) -> str:
        """Why the flow cannot be cut after the module at ``path``; empty when it can."""
        calls = self.calls.get(path, [])
        if len(calls) != 1:
            return f"it runs {len(calls)} times"
        if calls[0].output not in self.tensors_used:
            return "it does not give one value of its own"
        before, after = self.split_nodes(path)
        if not set(after).isdisjoint(user for node in before if node is not calls[0].output for user in node.users):
            return "a skip connection or other data passes it by"
        return ""


def _is_operation(node: fx.Node) -> bool:
    return node.op != "get_attr"


def _find_tensors_used(module: nn.Module, node: fx.Node) -> Iterator[torch.Tensor]:
    for one in (node, *node.all_input_nodes):
        if one.op == "get_attr":
            value: Any = reduce(getattr, str(one.target).split("."), module)
            yield value
    if node.op == "call_module":
        called = module.get_submodule(str(node.target))
        yield from called.parameters()
        yield from called.buffers()


class _Tracer(fx.Tracer):
    """Modules of torch.nn are nodes, and so are ``leaf_paths`` ones; others are looked into."""

    proxy_buffer_attributes = True  # what is computed from buffers alone is otherwise computed once, while tracing

    def __init__(self, leaf_paths: Collection[str]) -> None:
        super().__init__()
        self.calls: dict[str, list[ModuleCall]] = {}
        self.untraceable_path = ""
        """The path of the innermost module that could not be looked into."""
        self._leaf_paths = leaf_paths
        self._thread = threading.get_ident()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self._leaf_paths or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        try:
            given = super().call_module(m, forward, args, kwargs)
        except Exception:
            if not self.is_leaf_module(m, path):
                self.untraceable_path = self.untraceable_path or path
            raise
        end = sum(_is_operation(node) for node in self.graph.nodes)
        self.calls.setdefault(path, []).append(ModuleCall(given.node if isinstance(given, fx.Proxy) else None, end))
        return given

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


def _trace(module: nn.Module) -> _Tracer:
    whole: set[str] = set()
    while True:
        tracer = _Tracer(whole)
        try:
            with _trace_lock:
                tracer.trace(module)
        except Exception as error:  # whatever a model raises when it is given what stands for a tensor
            if not tracer.untraceable_path:
                reason = get_error_text(error)
                raise UsageError(f"{type(module).__name__} cannot be cut, as it cannot be traced: {reason}") from error
            whole.add(tracer.untraceable_path)
        else:
            return tracer
