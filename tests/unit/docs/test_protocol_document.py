"""The format of a message in docs/topics/protocol.md, its limits and timers agree with the code."""

import re

import pytest
import torch
from pydantic import BaseModel

from fedws.core.limits import MAX_HEADER_BYTES, MAX_MESSAGE_TENSORS
from fedws.core.tensors import DTYPES
from fedws.core.validation import NODE_ID_PATTERN
from fedws.network import admission, liveness
from fedws.network.base import MAX_HANDSHAKE_MESSAGE_BYTES, Limits
from fedws.network.mqtt import channel as mqtt_channel
from fedws.network.transports import ws
from fedws.protocol import encoder
from fedws.protocol.close_codes import MAX_REASON_BYTES, CloseCode
from fedws.protocol.header import ALIGNMENT_BYTES, MAX_DEPTH, MAX_DIMENSIONS, MAX_NAME_CHARS, Header, TensorRow
from fedws.protocol.messages import MESSAGE_TYPES
from tests.helpers.protocol_page import TEXT, WORDS, section, table


def test_the_numbers() -> None:
    limits = {row["limit"]: int(row["value"]) for row in table(section("Limits"), "limit")}
    assert list(limits.values()) == [
        MAX_HEADER_BYTES,
        MAX_MESSAGE_TENSORS,
        MAX_NAME_CHARS,
        MAX_DIMENSIONS,
        MAX_DEPTH,
        ALIGNMENT_BYTES,
        encoder.FRAGMENT_BYTES,
        Limits().max_message_bytes,
        MAX_HANDSHAKE_MESSAGE_BYTES,
    ]
    assert (
        f"at most {encoder.FRAGMENT_BYTES:,} bytes (1 MiB)" in TEXT
        and f"at most {Limits().max_message_bytes:,} bytes (1 GiB)" in TEXT
    )
    assert (
        f"at most {MAX_HANDSHAKE_MESSAGE_BYTES:,} bytes (64 KiB)" in TEXT
        and f"no frame above {MAX_HANDSHAKE_MESSAGE_BYTES:,} bytes" in WORDS
    )
    assert f"magic: {encoder.MAGIC.hex(' ')}" in TEXT and f"version: {encoder.PROTOCOL_VERSION}" in TEXT
    assert NODE_ID_PATTERN == r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", "the first section words it"


def test_timers_follow_from_silence() -> None:
    settings = ws._library_settings(Limits())
    assert Limits().peer_timeout == 60 and "60 s by default" in WORDS
    assert (settings["ping_interval"], settings["ping_timeout"]) == (20, None), "what is watched is not a pong"
    assert ws._library_settings(Limits(ping_interval=7))["ping_interval"] == 7
    assert (settings["open_timeout"], settings["close_timeout"]) == (10, 10)
    assert (
        f"at least {liveness.MIN_BYTES_PER_SECOND:,} bytes a second" in WORDS
        and f"({60 * liveness.MIN_BYTES_PER_SECOND:,} bytes in 60 s)" in WORDS
    )
    assert liveness.CHECKS_PER_TIMEOUT % 6 == 0, "a sixth of silence is a number of looks"
    assert settings["compression"] is None and settings["max_size"] == (
        MAX_HANDSHAKE_MESSAGE_BYTES,
        MAX_HANDSHAKE_MESSAGE_BYTES,
    )
    assert MAX_REASON_BYTES == 123
    codes = {int(row["code"]) for row in table(section("Close codes"), "code")}
    assert codes >= {code for code in CloseCode if code is not CloseCode.INVALID_DATA}
    assert [int(code) for code in mqtt_channel._CLOSE_CODES] == [4000, 4002, 4001, 1000], "and section 11 says so"
    assert "1 for the code 4002 of section 1, 2 for 4001, 3 for 1000, else 0" in WORDS
    assert liveness.MAX_UNREAD_BYTES == 4 * 2**20 and "more than 4 MiB of outgoing data to it are unread" in WORDS
    max_bytes = f"{admission.WEBSOCKET_ALLOWANCE.max_bytes:,} bytes"
    assert f"at most {max_bytes} and {admission.WEBSOCKET_ALLOWANCE.max_frames} frames" in WORDS


def test_dtypes() -> None:
    rows = table(section("The table of tensors"), "dtype")
    sizes = {row["dtype"]: int(row["bytes"]) for row in rows}
    newest = {} if hasattr(torch, "float8_e8m0fnu") else {"float8_e8m0fnu": 1}  # which torch has had since 2.7
    assert sizes == {name: dtype.itemsize for name, dtype in DTYPES.items()} | newest


@pytest.mark.parametrize(("title", "model"), [("The header", Header), ("The table of tensors", TensorRow)])
def test_header_keys(title: str, model: type[BaseModel]) -> None:
    rows = table(section(title), "key")
    assert [row["key"] for row in rows] == list(model.model_fields)
    assert all(field.is_required() for field in model.model_fields.values())
    assert model.model_config["extra"] == "forbid"


def test_message_types() -> None:
    (row,) = (row for row in table(section("The header"), "key") if row["key"] == "type")
    assert re.findall("`([a-z_]+)`", row["value"]) == list(MESSAGE_TYPES), "in this order"
