"""Jobs of fedws, started with the two scripts as a user starts them, on free ports of the loopback interface."""

import json
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness.processes import Child, Crew
from fedws.protocol.messages import DEFAULT_COORDINATOR_ID

WORKERS = ("alice", "bob", "charlie")
EVALUATOR = "testing"
PATIENCE = 120.0
"""Timeout of a start in seconds."""


def free_ports(count: int) -> list[int]:
    """Return ``count`` ports of the loopback interface on which no process listens at the moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


class Job:
    """Worker processes, optionally an evaluator, and a coordinator.

    All nodes serve when the constructor returns. ``coordinate`` starts the coordinator. Each script sets torch's
    number of threads itself: one in workers and coordinator, one per core in the evaluator.

    ``flags`` apply to every process, ``coordinator_flags`` only to the coordinator. ``tls`` is a folder with a CA and
    the certificates of all nodes, as ``fedws.security.certificates`` creates them; links are not encrypted without
    it. With ``join``, the nodes dial out to that URL of a coordinator or a broker, and the coordinator listens there.
    """

    def __init__(
        self,
        crew: Crew,
        data_dir: Path,
        *,
        evaluator: bool,
        flags: Sequence[str] = (),
        coordinator_flags: Sequence[str] = (),
        tls: Path | None = None,
        join: str = "",
    ) -> None:
        self._crew = crew
        self._join = join
        self._flags = list(flags)
        self._tls = tls
        self._folder = tempfile.TemporaryDirectory(prefix="fedws-bench-")
        crew.callback(self._folder.cleanup)
        names = [*WORKERS, EVALUATOR] if evaluator else list(WORKERS)
        self.addresses = {}
        self.nodes: dict[str, Child] = {}
        for name, port in zip(names, free_ports(len(names)), strict=True):
            self.addresses[name] = f"ws{'' if tls is None else 's'}://127.0.0.1:{port}"
            more = [*(["--evaluator"] if name == EVALUATOR else []), *self._certificate(name)]
            place = ["--join", join] if join else ["--host", "127.0.0.1", "--port", str(port)]
            more += ["--data-dir", str(data_dir), *self._flags]
            self.nodes[name] = crew.start(name, "run_websocket_server.py", "--id", name, *place, *more)
        for name, child in self.nodes.items():
            child.wait_for(f"^{name} (is serving|joins) at ", PATIENCE)
        self._coordinator_flags = list(coordinator_flags)

    def coordinate(self) -> Child:
        """Start the coordinator, and return its process."""
        workers = [name if self._join else f"{name}={url}" for name, url in self.addresses.items() if name != EVALUATOR]
        scoring = "none"
        if EVALUATOR in self.addresses:
            scoring = EVALUATOR if self._join else f"{EVALUATOR}={self.addresses[EVALUATOR]}"
        links = ["--listen", self._join, "--expect-workers"] if self._join else ["--workers"]
        links += [*workers, "--evaluator", scoring]
        place = ["--run-dir", str(self.run_dir), "--seed", "1", *self._certificate(DEFAULT_COORDINATOR_ID)]
        return self._crew.start(
            "coordinator", "run_websocket_client.py", *links, *place, *self._flags, *self._coordinator_flags
        )

    def _certificate(self, name: str) -> list[str]:
        if self._tls is None:
            return []
        files = {"cert": f"{name}.pem", "key": f"{name}.key", "ca": "ca.pem"}
        return [word for kind, file in files.items() for word in (f"--tls-{kind}", str(self._tls / file))]

    @property
    def run_dir(self) -> Path:
        """Return the run directory of the coordinator."""
        return Path(self._folder.name) / "run"

    def records(self, kind: str) -> list[dict[str, Any]]:
        """Return the records of one kind from the run's ``metrics.jsonl``, in order."""
        lines = (self.run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [record for record in map(json.loads, lines) if record["kind"] == kind]
