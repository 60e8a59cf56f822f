"""``python -m tests.fuzz``: hostile inputs for the decoder and the handshake, then hostile connections to a worker.

The program ends by itself, with status 1 if it has found a problem. It keeps inputs with new outcomes in
``tests/fuzz/corpus``.
"""

import argparse
import hashlib
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.fuzz.connections import Storm, against_a_worker
from tests.fuzz.mutator import seeds
from tests.fuzz.target import OBJECTS, Target
from tests.helpers.support import REPOSITORY

CORPUS = Path(__file__).parent / "corpus"
LONGEST = 2048
"""Size in bytes of the largest input that is kept."""


def main() -> int:
    """Fuzz, print the figures, and return the exit status."""
    flags = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    add = flags.add_argument
    add("--executions", type=int, default=1_000_000, help="number of inputs to the decoder, 0 for none (1000000)")
    add("--connections", type=int, default=10_000, help="number of connections to a worker, 0 for none (10000)")
    add("--seconds", type=float, default=900, help="timeout of each of the two parts in seconds (900)")
    add("--seed", type=int, default=1, help="seed of the inputs (1)")
    add("--plain", action="store_true", help="draw inputs at random, without atheris")
    given = flags.parse_args()
    right = True
    with tempfile.TemporaryDirectory(prefix="fedws-fuzz-") as folder:
        if given.executions:
            right &= decoder(Path(folder), given.executions, given.seconds, given.seed, given.plain)
        if given.connections:
            right &= connections(Path(folder), given.connections, given.seconds, given.seed)
    return 0 if right else 1


def decoder(folder: Path, executions: int, seconds: float, seed: int, plain: bool) -> bool:
    """Execute inputs in a process of its own, print the figures, and return True if no problem was found."""
    if not plain and importlib.util.find_spec("atheris") is None:
        plain = True
        print("fuzz: atheris is not installed (pip install -e '.[fuzz]'), so inputs are drawn at random")
    begin = folder / "begin"
    begin.mkdir()
    for data in (*seeds(), *(file.read_bytes() for file in CORPUS.glob("*.bin"))):
        (begin / name(data)).write_bytes(data)
    file = folder / "figures.json"
    command = ["-m", "tests.fuzz.guided", *(["--plain"] if plain else []), "--seed", str(seed)]
    command += ["--executions", str(executions), "--seconds", str(seconds), "--corpus", str(begin)]
    command += ["--figures", str(file)]
    try:
        status = subprocess.run([sys.executable, *command], cwd=REPOSITORY, timeout=seconds + 60).returncode
    except subprocess.TimeoutExpired:
        status = 70  # the status of libFuzzer after a timeout
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    if status not in (0, 1):
        print(f"fuzz: the process ended with status {status}; the figures are those written before")
        found["hangs" if status == 70 else "crashes"] = found.get("hangs" if status == 70 else "crashes", 0) + 1
    for line in found.get("found", ()):
        print(f"fuzz: {line}")
    kept = keep({kind: bytes.fromhex(data) for kind, data in found.get("outcomes", {}).items()})
    count, took = found.get("executions", 0), found.get("seconds", 0.0)
    print(
        f"decoder and handshake, {'at random' if plain else 'guided by coverage'}, seed {seed}:\n"
        f"  executions        {count:,} of {executions:,} in {took:.0f} s, {count / max(took, 0.001):,.0f} a second\n"
        f"  messages          {found.get('messages', 0):,}; handshakes {found.get('handshakes', 0):,}, none welcomed\n"
        f"  crashes           {found.get('crashes', 0)}\n"
        f"  hangs             {found.get('hangs', 0)} (slowest execution {found.get('slowest', 0):.3f} s)\n"
        f"  peak of objects   {found.get('peak', 0):,} bytes (of {found.get('traced', 0):,} that were traced; "
        f"bound {OBJECTS:,} and twice the input)\n"
        f"  largest body      {found.get('largest', 0):,} bytes allocated, none above its limit\n"
        f"  kinds of outcome  {len(found.get('outcomes', {}))}; {kept} new ones kept in the corpus",
        flush=True,
    )
    return status == 0 and not found.get("crashes") and not found.get("hangs") and count > 0


def connections(folder: Path, count: int, seconds: float, seed: int) -> bool:
    """Send hostile connections to a worker, print the figures, and return True if no problem was found."""
    found: Storm = against_a_worker(folder, count, seconds, seed)
    each = ", ".join(f"{kind} {number:,}" for kind, number in found.kinds.items())
    print(
        f"hostile connections to a worker, seed {seed}:\n"
        f"  connections       {found.connections:,} of {count:,} in {found.seconds:.0f} s\n"
        f"  of these          {each}\n"
        f"  not ended in time {found.stuck}; welcomed without the key {found.welcomed}; not opened {found.refused}\n"
        f"  worker's memory   its peak grew by {found.grown / 2**20:.1f} MiB\n"
        f"  honest run after  {'same model as the run before, bit for bit' if found.same else 'DIFFERENT MODEL'}",
        flush=True,
    )
    return found.same and not found.stuck and not found.welcomed and found.connections > 0


def keep(outcomes: dict[str, bytes]) -> int:
    """Write the inputs of outcomes that the corpus lacks; return how many there are."""
    known = Target()
    for file in CORPUS.glob("*.bin"):
        known(file.read_bytes())
    new = [data for kind, data in outcomes.items() if kind not in known.figures.outcomes and len(data) <= LONGEST]
    for data in new:
        (CORPUS / name(data)).write_bytes(data)
    return len(new)


def name(data: bytes) -> str:
    """Return the file name of an input."""
    return f"{hashlib.sha256(data).hexdigest()[:16]}.bin"


if __name__ == "__main__":
    sys.exit(main())
