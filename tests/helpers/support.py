"""Helpers of all tests: requirements of the machine, small files to read, and records of runs."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedws.core import registry
from fedws.protocol.decoder import Decoder
from fedws.protocol.encoder import encode_message
from fedws.protocol.messages import Message

REPOSITORY = Path(__file__).parents[2]
TAKEOVER = "7a" * 32
"""Takeover key of a run, for tests in which it does not matter."""


def require(condition: object, reason: str) -> None:
    """Skip the test unless the condition holds; with FEDWS_REQUIRE_ALL=1, as in CI, fail it."""
    if condition:
        return
    if os.environ.get("FEDWS_REQUIRE_ALL") == "1":
        pytest.fail(f"{reason} (FEDWS_REQUIRE_ALL=1)", pytrace=False)
    pytest.skip(reason)


def idx_bytes(values: np.ndarray) -> bytes:
    """Return an IDX file that holds these unsigned bytes."""
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, 8, values.ndim]) + sizes + values.astype(np.uint8).tobytes()


def write_idx(folder: Path, train: int = 40, test: int = 20) -> None:
    """Write a small data set in MNIST's format: random pixels, labels 0 to 9 in turn."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for part, samples in (("train", train), ("t10k", test)):
        pixels = random.integers(0, 256, (samples, 28, 28))
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(pixels))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(np.arange(samples) % 10))


def recorded(run: Path, kind: str = "") -> list[dict[str, Any]]:
    """Return the lines of a run's ``metrics.jsonl``: those of one kind, or all."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record for record in found if kind in ("", record["kind"])]


def sent_over(message: Message) -> Any:
    """Return a message after encoding and decoding."""
    decoder = Decoder()
    for piece in encode_message(message).fragments():
        decoder.feed(piece)
    return decoder.build_message()


def registered_by_benchmarks() -> dict[tuple[str, str], Any]:
    """Return the pieces of the benchmarks, which only their own tests may use."""
    return {name: piece for name, piece in registry._pieces.items() if piece.__module__.startswith("benchmarks.")}
