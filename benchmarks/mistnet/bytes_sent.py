"""The bytes of MistNet and of FedAvg on real links, from the run's own records and from the kernel's count.

The runs are short, because training does not change the bytes: one epoch for MistNet, and one batch a round for FedAvg.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.job import PATIENCE
from benchmarks.harness.processes import Crew
from benchmarks.mistnet.training_case import WORKERS, TrainingCase
from benchmarks.network.round_overhead import Traffic, loopback

PLUGIN = "benchmarks/mistnet/plugin.py"
LIMIT = 3600.0
"""Timeout of one run in seconds."""


def both(case: TrainingCase, rounds: int) -> tuple[Traffic, Traffic]:
    """Return the traffic of MistNet and of FedAvg with the same workers.

    MistNet is the case's upload of every worker, and FedAvg has ``rounds`` rounds.
    """
    gathered = [
        "--split-at",
        case.cut,
        "--encoding",
        case.encoding,
        "--pretrained",
        case.pretrained,
        "--server-epochs",
        "1",
    ]
    averaged = ["--rounds", str(rounds), "--max-local-batches", "1"]
    shared = ["--dataset", case.dataset, "--plugin", PLUGIN]
    with Crew() as crew, tempfile.TemporaryDirectory(prefix="fedws-bench-") as folder:
        policy, nodes = Path(folder) / "policy.toml", {}
        policy.write_text("max_uploads = 99\n", encoding="utf-8")  # all cases share the audit logs, which count uploads
        for number, name in enumerate(WORKERS):
            share = ["--partition", case.partition, "--share", f"{number}/{len(WORKERS)}"]
            place = ["--host", "127.0.0.1", "--port", "0", "--data-dir", case.data_dir, "--policy", str(policy)]
            nodes[name] = crew.start(name, "run_websocket_server.py", "--id", name, *share, *place, *shared)
        urls = {name: child.wait_for(r"serving.*(ws://\S+)", PATIENCE)[1][1] for name, child in nodes.items()}
        links = ["--workers", *(f"{name}={url}" for name, url in urls.items()), "--evaluator", "none"]
        words = [*links, *shared, "--model", case.model, "--batch-size", "64"]
        return (
            _run(crew, [*words, "--algorithm", "mistnet", *gathered]),
            _run(crew, [*words, "--algorithm", "fedavg", *averaged]),
        )


def _run(crew: Crew, words: Sequence[str]) -> Traffic:
    with tempfile.TemporaryDirectory(prefix="fedws-bench-") as folder:
        run = Path(folder) / "run"
        before = loopback()
        crew.start("coordinator", "run_websocket_client.py", *words, "--run-dir", str(run)).finish(LIMIT)
        after = loopback()
        records = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        recorded = sum(one["bytes_sent"] + one["bytes_received"] for one in records if one["kind"] == "round")
    return Traffic(recorded, after[0] - before[0], after[1] - before[1])
