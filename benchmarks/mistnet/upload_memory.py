"""The coordinator's memory by the size of a worker's upload, with floats, which are the largest encoding."""

import tempfile
from pathlib import Path

from benchmarks.harness.job import PATIENCE
from benchmarks.harness.processes import Crew
from benchmarks.mistnet.bytes_sent import LIMIT, PLUGIN

CUT, RECORD = "features.2", 24 * 32 * 32 * 4
"""Split point of ``small_vgg``, and size in bytes of a record's features there."""
RECORDS = (600, 6_000)


def peaks(pretrained: str, counts: tuple[int, ...] = RECORDS) -> list[int]:
    """Return the coordinator's peak memory in bytes for each number of records.

    It is measured from the coordinator's start until all records of one worker are uploaded.
    """
    return [_peak(pretrained, count) for count in counts]


def _peak(pretrained: str, records: int) -> int:
    shared = ["--dataset", f"noise:samples={records}", "--plugin", PLUGIN]
    with Crew() as crew, tempfile.TemporaryDirectory(prefix="fedws-bench-") as folder:
        policy = Path(folder) / "policy.toml"
        policy.write_text('encodings = "floats"\nlabels = "clear"\nmax_uploads = 99\n', encoding="utf-8")
        place = ["--host", "127.0.0.1", "--port", "0", "--labels", "0-9", "--policy", str(policy)]
        node = crew.start("alice", "run_websocket_server.py", "--id", "alice", *place, *shared)
        _, found = node.wait_for(r"serving.*(ws://\S+)", PATIENCE)
        links = ["--workers", f"alice={found[1]}", "--evaluator", "none", "--model", "small_vgg", *shared]
        gathered = ["--split-at", CUT, "--encoding", "floats", "--pretrained", pretrained, "--server-epochs", "1"]
        strategy = ["--algorithm", "mistnet:labels=clear", *gathered, "--run-dir", str(Path(folder) / "run")]
        child = crew.start("coordinator", "run_websocket_client.py", *links, *strategy)
        child.wait_for("Training started", LIMIT)
        return child.peak
