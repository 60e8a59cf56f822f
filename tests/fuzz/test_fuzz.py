"""The harness of ``make fuzz``, with random inputs instead of coverage, so that it needs no further package."""

import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import torch

from fedws.core.errors import ProtocolError
from fedws.protocol.decoder import Decoder
from fedws.protocol.messages import Message, Proof
from tests.fuzz import target
from tests.fuzz.__main__ import CORPUS, LONGEST, name
from tests.fuzz.connections import against_a_worker
from tests.fuzz.mutator import messages, mutate, parsed, seeds
from tests.fuzz.target import Target, Wrong
from tests.helpers.support import REPOSITORY, TAKEOVER


def test_all_of_the_corpus_is_refused_or_right() -> None:
    """Each input has an outcome of its own."""
    run = Target()
    files = sorted(CORPUS.glob("*.bin"))
    assert 24 <= len(files) <= 200
    for file in files:
        data = file.read_bytes()
        assert file.name == name(data) and len(data) <= LONGEST
        run(data)
    assert len(run.figures.outcomes) == len(files)
    assert run.figures.executions == len(files) and run.figures.messages >= 8


def test_every_seed_is_a_message_and_the_mutator_makes_others() -> None:
    run, random = Target(), Random(1)
    for data in seeds():
        run(data)
        assert parsed(data) is not None
    assert run.figures.messages == len(messages())
    mutants = {mutate(data, random) for data in seeds() for _ in range(50)}
    assert len(mutants) > 400
    for data in mutants:
        run(data)
    assert len(run.figures.outcomes) > 30 and run.figures.handshakes == 2 * run.figures.messages


@pytest.mark.parametrize("what", ["crashes", "takes memory", "hangs", "allocates", "welcomes", "prints"])
def test_what_must_not_happen_is_found(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder or the handshake is broken in each of the ways that the fuzzer detects."""

    def message(decoder: Decoder) -> Message:
        if what == "crashes":
            raise IndexError("7")
        if what == "prints":
            error = ProtocolError()
            error.args = ("two\nlines",)  # of which the constructor would have made one
            raise error
        if what == "takes memory":
            bytearray(target.OBJECTS + 2**20)
        if what == "hangs":
            clock.append(2.0)
        if what == "allocates":
            torch.empty(2**16 + 1)
        return Proof(proof="00" * 32, takeover_key=TAKEOVER)

    clock, run = [0.0], Target()  # which makes a worker, and reads its welcome
    monkeypatch.setattr(Decoder, "build_message", message)
    monkeypatch.setattr(target, "OFTEN", 1)
    monkeypatch.setattr("tests.fuzz.target.time.perf_counter", lambda: clock[-1])
    if what == "welcomes":
        monkeypatch.setattr("fedws.protocol.handshake.verify_proof", lambda *given: None)
    with pytest.raises(Wrong):
        run(seeds()[0])
    assert len(run.figures.found) == 1
    assert (run.figures.crashes, run.figures.hangs) == ((0, 1) if what == "hangs" else (1, 0))


def test_the_command_counts_and_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz.guided", "--plain", "--executions", "300", "--seconds", "60"]
    command += ["--seed", "1", "--corpus", str(CORPUS), "--figures", str(tmp_path / "figures")]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    figures = json.loads((tmp_path / "figures").read_text())
    assert figures["executions"] == 300 and figures["crashes"] == figures["hangs"] == 0 and figures["found"] == []


def test_a_small_storm(tmp_path: Path) -> None:
    found = against_a_worker(tmp_path, 120, 60, 1, fork=True)
    assert found.connections == 120 and len(found.kinds) == 17
    assert (found.stuck, found.welcomed, found.refused) == (0, 0, 0)
    assert found.same
