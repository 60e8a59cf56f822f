"""Every name of a library that is used here though its authors do not promise it: it is listed, and it is still there.

Such a name may change with any version, so the libraries are bounded in ``pyproject.toml``. When a new version is let
in, these tests tell what has gone. A name that is used and not listed fails too.
"""

import inspect
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from packaging.requirements import Requirement

from tests.helpers.private_names import foreign, sources, stored
from tests.helpers.support import REPOSITORY


class Use(NamedTuple):
    """One name of a library's object, and how it is used."""

    owner: str
    """``module:Class``, or a module."""
    name: str
    file: str
    """Where it is used, under ``fedws/``."""
    takes: tuple[str, ...] | None = None
    """The parameters of a function, without ``self``; None for what is no function."""

    @property
    def library(self) -> str:
        return self.owner.partition(":")[0].partition(".")[0]


_CONNECTION = "websockets.asyncio.connection:Connection"
_SERVER = "websockets.asyncio.server:ServerConnection"
_PROTOCOL = "websockets.protocol:Protocol"
_MQTT = "aiomqtt:Client"
_LOOP = "asyncio:BaseEventLoop"
_TOLD = ("client", "userdata", "flags", "reason_code", "properties")
_EVENTS = "tensorboardX.event_file_writer:EventsWriter"
_MONITORED, _INCOMING, _CHANNEL, _CLIENT = (
    "network/websocket/monitored_connection.py",
    "network/websocket/incoming_connection.py",
    "network/websocket/channel.py",
    "network/mqtt/library.py",
)

USES = (
    Use(_CONNECTION, "connection_made", _INCOMING, ("transport",)),
    Use(_CONNECTION, "connection_lost", _MONITORED, ("exc",)),
    Use(_CONNECTION, "data_received", _MONITORED, ("data",)),
    Use(_CONNECTION, "process_event", _MONITORED, ("event",)),
    Use(_SERVER, "connection_made", _INCOMING, ("transport",)),
    Use(_SERVER, "process_event", _INCOMING, ("event",)),
    Use(_CONNECTION, "send_data", _MONITORED, ()),
    Use(_CONNECTION, "recv_messages", _MONITORED),
    Use("websockets.asyncio.messages:Assembler", "paused", _MONITORED),
    Use(_CONNECTION, "transport", _MONITORED),
    Use(_CONNECTION, "loop", _MONITORED),
    Use(_CONNECTION, "protocol", _MONITORED),
    Use(_PROTOCOL, "fail", _MONITORED, ("code", "reason")),
    Use(_PROTOCOL, "reader", _MONITORED),
    Use("websockets.streams:StreamReader", "buffer", _MONITORED),
    Use(_PROTOCOL, "max_message_size", _CHANNEL),
    Use(_PROTOCOL, "max_fragment_size", _CHANNEL),
    Use("websockets.frames", "DATA_OPCODES", _MONITORED),
    Use("websockets.asyncio.client:connect", "process_redirect", "network/transports/ws.py", ("exc",)),
    Use(_MQTT, "_client", _CLIENT),
    Use(_MQTT, "_connected", _CLIENT),
    Use(_MQTT, "_client_connect", _CLIENT, ()),
    Use(_MQTT, "_wait_for", _CLIENT, ("fut", "timeout")),
    Use(_MQTT, "_on_socket_open", _CLIENT, ("client", "userdata", "sock")),
    Use(_MQTT, "_on_connect", _CLIENT, _TOLD),
    Use(_MQTT, "_on_disconnect", _CLIENT, _TOLD),
    Use(_MQTT, "_on_message", _CLIENT, ("client", "userdata", "message")),
    Use(_MQTT, "_on_publish", _CLIENT, ("client", "userdata", "mid", "reason_code", "properties")),
    Use(_EVENTS, "write_event", "recording/sinks/tensorboard.py", ("event",)),
    Use(_EVENTS, "flush", "recording/sinks/tensorboard.py", ()),
    Use(_EVENTS, "close", "recording/sinks/tensorboard.py", ()),
    Use("tensorboardX.proto.event_pb2", "Event", "recording/sinks/tensorboard.py"),
    Use("tensorboardX.proto.summary_pb2", "Summary", "recording/sinks/tensorboard.py"),
    Use("torch:Tensor", "_version", "network/body_digest.py"),
    Use("torch.nn:Module", "_modules", "split_learning/model_split.py"),
    Use("torch.nn:Module", "_buffers", "split_learning/model_split.py"),
    Use(_LOOP, "_scheduled", "simulation/virtual_loop.py"),
    Use(_LOOP, "_clock_resolution", "simulation/virtual_loop.py"),
    Use(_LOOP, "_process_events", "simulation/virtual_loop.py", ("event_list",)),
    Use(_LOOP, "_write_to_self", "simulation/virtual_loop.py", ()),
    Use("asyncio.selector_events:BaseSelectorEventLoop", "_selector", "simulation/virtual_loop.py"),
    Use("argparse:ArgumentParser", "_option_string_actions", "cli/parser.py"),
    Use("argparse:HelpFormatter", "_split_lines", "cli/parser.py", ("text", "width")),
    Use("argparse:HelpFormatter", "_fill_text", "cli/parser.py", ("text", "width", "indent")),
    Use("argparse", "_ArgumentGroup", "cli/security_flags.py"),
    Use("os", "_exit", "cli/worker.py", ("status",)),
)
NAMES = {use.name for use in USES}


def owner(use: Use) -> Any:
    module, _, name = use.owner.partition(":")
    return getattr(import_module(module), name) if name else import_module(module)


@pytest.mark.parametrize("use", USES, ids=lambda use: f"{use.owner}.{use.name}")
def test_it_is_still_there(use: Use) -> None:
    holder = owner(use)
    bases = inspect.getmro(holder) if inspect.isclass(holder) else ()
    assert hasattr(holder, use.name) or any(use.name in stored(base) for base in bases)
    if use.takes is not None:
        parameters = tuple(inspect.signature(getattr(holder, use.name)).parameters)
        assert parameters == (("self",) if ":" in use.owner else ()) + use.takes


@pytest.mark.parametrize("use", USES, ids=lambda use: f"{use.owner}.{use.name}")
def test_it_is_still_used(use: Use) -> None:
    assert use.name in (REPOSITORY / "fedws" / use.file).read_text(encoding="utf-8"), "take it out of the table"


@pytest.mark.parametrize("library", sorted({use.library for use in USES} - {"argparse", "asyncio", "os"}))
def test_its_library_has_an_upper_bound(library: str) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (wanted,) = (one for text in project["dependencies"] if (one := Requirement(text)).name == library)
    assert any(bound.operator in ("<", "<=", "==", "~=") for bound in wanted.specifier), wanted


def test_the_loop_waits_by_its_selector() -> None:
    """``VirtualLoop`` is its own selector: an attribute of other loops, which ``BaseEventLoop`` itself calls."""
    import asyncio

    assert "self._selector.select(timeout)" in inspect.getsource(asyncio.BaseEventLoop._run_once)  # type: ignore[attr-defined]


def test_every_private_name_of_a_library_is_listed() -> None:
    found = [place for source in sources() for name, place in source.private_uses() if name not in NAMES]
    assert not found, f"list them in {Path(__file__).name}: {found}"


def test_every_name_that_a_library_has_too_is_listed() -> None:
    """A class of ours that defines or sets what its base in a library has, perhaps without knowing it."""
    found = []
    for ours in foreign():
        for base in ours.bases:
            theirs: set[str] = {*dir(base), *stored(base)}
            promised = not base.__module__.startswith("websockets")  # what may be overridden there is not documented
            for name in ours.names & theirs - NAMES:
                if not name.startswith("__") and (name.startswith("_") or not promised):
                    found.append(f"{ours.cls.__module__}.{ours.cls.__qualname__}.{name} is of {base.__qualname__} too")
    assert not found
