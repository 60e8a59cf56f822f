"""The forward pass of a model as a graph of torch.fx."""

import threading
from collections.abc import Callable, Collection, Iterator
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from fedws.core.errors import UsageError
from fedws.core.untrusted_text import get_error_text

_trace_lock = threading.Lock()  # torch.fx replaces methods of nn.Module for all threads while it traces


class ModuleCall(NamedTuple):
    """One call of a module."""

    output: fx.Node | None
    """Node of the return value; None if the module does not return one value."""
    end_index: int
    """Number of nodes when the call ended. Nodes of in-place operations may be between ``output`` and the end."""


class ForwardGraph:
    """A forward pass in the current mode of ``module``, as a list of nodes from the inputs to the output.

    The list does not contain the nodes that fetch a tensor of the module; they are placed where they are used. Tracing
    may add constants to ``module``. A submodule that cannot be traced, such as one with control flow that depends on
    the data, becomes a single node. Raises UsageError if the forward method of ``module`` itself cannot be traced.
    """

    def __init__(self, module: nn.Module) -> None:
        tracer = _trace(module)
        self.nodes = [node for node in tracer.graph.nodes if _is_operation(node)]
        self.calls = tracer.calls
        """Calls of each module by its path; the calls that end first come first."""
        self.tensors_used = {node: set(_find_tensors_used(module, node)) for node in self.nodes}
        """Tensors of the module that each node uses."""

    def split_nodes(self, path: str) -> tuple[list[fx.Node], list[fx.Node]]:
        """Return the nodes up to the end of the module at ``path``, and the nodes after it."""
        return self.nodes[: self.calls[path][0].end_index], self.nodes[self.calls[path][0].end_index :]

    def find_split_problem(self, path: str) -> str:
        """Return why the model cannot be split after the module at ``path``, or an empty string."""
        calls = self.calls.get(path, [])
        if len(calls) != 1:
            return f"the module runs {len(calls)} times"
        if calls[0].output not in self.tensors_used:
            return "the module does not return one value of its own"
        before, after = self.split_nodes(path)
        if not set(after).isdisjoint(user for node in before if node is not calls[0].output for user in node.users):
            return "a skip connection or other data bypasses the module"
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
    """A tracer for which modules of torch.nn and those at ``leaf_paths`` are nodes; it traces into all others."""

    proxy_buffer_attributes = True  # otherwise tracing computes results of buffers alone once

    def __init__(self, leaf_paths: Collection[str]) -> None:
        super().__init__()
        self.calls: dict[str, list[ModuleCall]] = {}
        self.untraceable_path = ""
        """Path of the innermost module into which the tracer cannot trace."""
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
        except Exception as error:  # a model may raise anything when its input is a proxy
            if not tracer.untraceable_path:
                reason = get_error_text(error)
                raise UsageError(f"cannot split {type(module).__name__}: torch.fx cannot trace it: {reason}") from error
            whole.add(tracer.untraceable_path)
        else:
            return tracer
