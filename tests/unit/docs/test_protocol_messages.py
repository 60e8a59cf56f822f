"""The messages in docs/topics/protocol.md agree with the code: their fields, and what version 1 accepts and refuses."""

import dataclasses
import json
import re
import typing
from datetime import datetime
from hashlib import sha256
from typing import Any

import msgpack
import pytest

from fedws.coordinator.listener import REPLACED_REASON, duplicate_node_reason
from fedws.core.errors import ProtocolError
from fedws.network.base import Limits
from fedws.node.run_lease import TAKEN_OVER_REASON, LeaseManager
from fedws.protocol import encoder
from fedws.protocol.decoder import Decoder
from fedws.protocol.header import ALIGNMENT_BYTES
from fedws.protocol.messages import MESSAGE_TYPES, Hello, Json, Refusal, list_header_fields
from fedws.protocol.run_claim import RunClaim
from tests.helpers.protocol_fields import NEEDED, TYPES
from tests.helpers.protocol_page import TEXT, example, parse_message, section, table


@pytest.mark.parametrize("name", MESSAGE_TYPES)
def test_fields(name: str) -> None:
    kind = MESSAGE_TYPES[name]
    hints = typing.get_type_hints(kind, include_extras=True)
    known = {f.name: f for f in list_header_fields(kind)}
    rows = table(section(f"`{name}`"), "field")
    assert [row["field"] for row in rows] == list(known)
    for row in rows:
        hint = hints[row["field"]]
        choices = [*typing.get_args(hint)] if typing.get_origin(hint) is typing.Literal else []
        if choices:
            assert re.findall("`?([a-z_]+)`?(?:, | or |$)", row["type"]) == [*filter(None, choices)]
            assert ('`""`' in row["type"]) == ("" in choices)
        else:
            assert row["type"] == TYPES[hint]
        field = known[row["field"]]
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        assert row["when absent"] == (NEEDED if default is dataclasses.MISSING else json.dumps(default))
    has_tensors = any(f.name == "tensors" for f in dataclasses.fields(kind))
    assert ("carries tensors" in re.findall(rf"^### `{name}`.*$", TEXT, re.MULTILINE)[0]) == has_tensors


def test_refusals() -> None:
    kinds = {row["refusal's `kind`"] for row in table(section("4. The handshake"), "check")}
    assert kinds == {*typing.get_args(typing.get_type_hints(Refusal)["kind"])}


def test_what_is_said_to_who_joins() -> None:
    text = " ".join(section("A node that dials out").split())
    assert f"`{REPLACED_REASON}`" in text and f"`{duplicate_node_reason('alice')}`" in text
    assert "`no hello in time`" in text and "`unexpected message 'hello', expected 'join'`" in text
    rows = table(section("A node that dials out"), "check of `join`")
    assert {row["refusal's `kind`"] for row in rows} <= {*typing.get_args(typing.get_type_hints(Refusal)["kind"])}
    assert [row["refusal's `kind`"] for row in rows] == ["protocol", "node", "key", "busy"], "see test_join_listener.py"


def test_what_the_busy_say() -> None:
    turns = LeaseManager("alice", Limits(peer_timeout=10))
    turns._newest_claim, turns._active_since = RunClaim("77d1e0aa55c6f3b2"), datetime(2026, 11, 21, 9, 10, 3)
    assert str(turns._build_busy_error()) == example(Refusal).reason
    assert " ".join(section("One run at a time").split()).count(example(Refusal).reason) == 1
    assert section("One run at a time").count(TAKEN_OVER_REASON) == 1


def test_names_and_secrets() -> None:
    """What the introduction of section 3 calls so."""
    for run, nonce, good in (
        ("r" * 64, "0123456789abcdef" * 4, True),
        ("é" * 64, "", True),
        ("r" * 65, "", False),
        ("r", "0123456789ABCDEF" * 4, False),
        ("r", "0" * 63, False),
        ("r", "0" * 64 + "\n", False),
    ):
        fields = {"run": run, "node": "alice", "protocol": 1, "nonce": nonce}
        decoder = Decoder()
        decoder.feed(_raw({**_HELLO, "fields": fields}))
        if good:
            assert decoder.build_message() == Hello(**fields)  # type: ignore[arg-type]
        else:
            with pytest.raises(ProtocolError):
                decoder.build_message()


def _raw(header: dict[str, Any]) -> bytes:
    packed: bytes = msgpack.packb(header)
    head = encoder.MAGIC + encoder.PROTOCOL_VERSION.to_bytes(4, "little") + len(packed).to_bytes(4, "little") + packed
    return head + bytes(-len(head) % ALIGNMENT_BYTES)


_HELLO: dict[str, Any] = {
    "type": "hello",
    "fields": {"run": "r", "node": "alice", "protocol": 1},
    "tensors": [],
    "transfer": "",
    "digest": None,
    "offset": 0,
}


def test_a_digest_of_an_empty_body_is_accepted() -> None:
    decoder = Decoder()
    decoder.feed(_raw({**_HELLO, "digest": sha256(b"").hexdigest()}))
    assert decoder.build_message() == parse_message(_HELLO)


@pytest.mark.parametrize(
    "change",
    [
        {"offset": 64},
        {"transfer": "t" * 64},
        {"transfer": "t" * 65},
        {"digest": "d" * 63},
        {"digest": "D" * 64},
        {"digest": "d" * 64, "offset": 1},
        {"transfer": "store"},
        {"transfer": "store", "digest": "d" * 64, "offset": 1},
        {"other": 1},
        {"type": "other"},
        {"fields": {**_HELLO["fields"], "other": 1}},
        {"fields": {**_HELLO["fields"], "run": b"r"}},
        {"fields": {**_HELLO["fields"], "protocol": 1.0}},
    ],
)
def test_what_version_1_refuses(change: Json) -> None:
    decoder = Decoder()
    with pytest.raises(ProtocolError):
        decoder.feed(_raw({**_HELLO, **change}))
        decoder.build_message()
