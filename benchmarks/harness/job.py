"""The product's side: the two scripts as a user starts them, on free ports of the loopback."""

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
"""Seconds that a start may take."""


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on just now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


class Job:
    """Worker processes, an evaluator if one is wanted, and a coordinator; made when all workers serve.

    Each script sets torch's threads itself: one in workers and coordinator, one for each core in the evaluator.
    ``flags`` are given to every process, ``coordinator_flags`` to the coordinator alone. ``tls`` is a folder with a CA
    and certificates of all nodes, as :mod:`fedws.security.certificates` makes them; without one, links are not
    encrypted. With ``join_last`` the nodes are not dialled: they join there, where the coordinator listens, be it at a
    broker.
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
        """Start the coordinator."""
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
        """Where the coordinator leaves its results."""
        return Path(self._folder.name) / "run"

    def records(self, kind: str) -> list[dict[str, Any]]:
        """The lines of one kind of the run's ``metrics.jsonl``, in order."""
        lines = (self.run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [record for record in map(json.loads, lines) if record["kind"] == kind]
