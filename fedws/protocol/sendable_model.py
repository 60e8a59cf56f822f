"""The check that a model can be sent, made when a run is prepared, before any node is connected."""

from collections.abc import Iterator
from typing import Any

import torch
from pydantic import ValidationError
from torch.nn.parameter import is_lazy

from fedws.core.errors import ProtocolError, UsageError
from fedws.core.limits import MAX_HEADER_BYTES, MAX_MESSAGE_TENSORS
from fedws.core.tensors import Tensors
from fedws.protocol.encoder import build_tensor_row, explain_unsupported_tensor
from fedws.protocol.header import (
    TensorRow,
    check_tensor_table,
    describe_schema_error,
    explain_invalid_name,
    pack_header,
)

RESERVED_HEADER_BYTES = 2**14
"""Number of header bytes reserved for a message's fields."""
_EXTRA_STATE_NAME = "_extra_state"  # the last part of the name under which torch stores a module's extra state
_METADATA_KEY = "__metadata__"  # the key that safetensors reserves


def require_module(spec: str, model: Any) -> torch.nn.Module:
    """Return the return value of a model's factory. Raises UsageError if it is not a torch.nn.Module."""
    if isinstance(model, torch.nn.Module):
        return model
    what = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
    what = "None" if model is None else what
    raise UsageError(f"model {spec}: its factory returned {what}; return a torch.nn.Module")


def check_sendable(spec: str, module: torch.nn.Module) -> None:
    """Raise UsageError with the tensor's name if any entry of the module's state dict cannot be sent."""
    for name, tensor in _iter_tensors(module):
        if is_lazy(tensor):
            raise UsageError(
                f"model {spec}: {_quote(name)} is not initialised: its module is lazy; "
                "pass a sample through the model in its factory"
            )
    state: dict[str, Any] = module.state_dict()
    for name, value in state.items():
        why, remedy = (
            _explain_subclass(value) if isinstance(value, torch.Tensor) else _explain_extra_state(module, name, value)
        )
        if why:
            raise UsageError(f"model {spec}: cannot send {_quote(name)}: it {why}; {remedy}")
    check_fits_message(spec, state)


def check_fits_message(spec: str, tensors: Tensors) -> None:
    """Raise UsageError if one message of a run with that model cannot hold ``tensors``, regardless of size in bytes."""
    if len(tensors) > MAX_MESSAGE_TENSORS:
        what = f"model {spec}: cannot send {len(tensors)} tensors: a message holds at most {MAX_MESSAGE_TENSORS}"
        raise UsageError(f"{what}; stack some of them into one")
    for name, tensor in tensors.items():
        why, remedy = explain_unsupported_tensor(tensor)
        if why:
            raise UsageError(f"model {spec}: cannot send {_quote(name)}: it {why}; {remedy}")
        if wrong := "safetensors reserves this name" if name == _METADATA_KEY else explain_invalid_name(name):
            raise UsageError(f"model {spec}: cannot send {_quote(name)}: {wrong}; rename it")
    rows = [build_tensor_row(name, tensor) for name, tensor in tensors.items()]
    try:
        check_tensor_table([TensorRow.model_validate(each) for each in rows])
    except ValidationError as error:
        raise UsageError(
            f"model {spec}: cannot send its tensors: {describe_schema_error(error)}; rename or reshape the tensor"
        ) from None
    except ProtocolError as error:
        raise UsageError(f"model {spec}: cannot send its tensors: {error}; rename or reshape the tensor") from None
    size = len(pack_header({"tensors": rows}))
    if size > MAX_HEADER_BYTES - RESERVED_HEADER_BYTES:
        what = f"model {spec}: the names, dtypes and shapes of its {len(rows)} tensors take {size} bytes"
        why = f"exceeds the limit of {MAX_HEADER_BYTES - RESERVED_HEADER_BYTES} bytes"
        raise UsageError(f"{what}, which {why}; use shorter names or fewer tensors")


def _iter_tensors(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _explain_extra_state(module: torch.nn.Module, name: str, value: Any) -> tuple[str, str]:
    """Return why a value that is not a tensor cannot be sent, and the remedy."""
    what, (owner, _, last) = f"is a {type(value).__name__}, not a tensor", name.rpartition(".")
    if last != _EXTRA_STATE_NAME:
        return what, "leave it out of the state dict"
    layer = type(dict(module.named_modules(remove_duplicate=False)).get(owner, module)).__name__
    return f"{what}, from get_extra_state of {layer}", "return a tensor there, or keep the value out of the state dict"


def _explain_subclass(tensor: torch.Tensor) -> tuple[str, str]:
    """Return why an instance of a tensor subclass cannot be sent, and the remedy; both are empty for a plain tensor."""
    kind = type(tensor.detach())
    if kind is torch.Tensor:
        return "", ""
    # a subclass may hold several tensors
    return f"is a {kind.__name__}, a subclass of torch.Tensor", "use a plain tensor"


def _quote(name: object) -> str:
    return f"{name!r:.300}"
