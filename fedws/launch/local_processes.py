"""The four default nodes as processes of this machine: started together, watched, always ended."""

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self

from fedws.core.errors import RunFailed
from fedws.core.plan import DEFAULT_EVALUATOR, DEFAULT_WORKERS

IDS = (*DEFAULT_WORKERS, *DEFAULT_EVALUATOR)
_SERVING = " is serving at "


class Nodes:
    """Processes of alice, bob, charlie and testing while the context lasts.

    ``flags`` are added to each one's command line, ``of_workers`` to those with data to train on; ``say`` gets each
    line that a node prints, with its id. With ``thirds`` each worker holds a third of the data set. Their ports
    follow each other from ``first_port`` on; 0 takes free ones. The nodes end with this process, however it
    ends: they watch their standard input.
    """

    def __init__(
        self,
        flags: Sequence[str],
        say: Callable[[str, str], None],
        first_port: int,
        of_workers: Sequence[str] = (),
        *,
        thirds: bool = False,
    ) -> None:
        self._flags = flags
        self._of_workers = of_workers
        self._thirds = thirds
        self._ports = {node: first_port and first_port + number for number, node in enumerate(IDS)}
        self._say = say
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._readers: list[threading.Thread] = []
        self._news: SimpleQueue[tuple[str, str]] = SimpleQueue()
        self._last: dict[str, str] = {}
        self.urls: dict[str, str] = {}
        """Where each node serves, once :meth:`wait_serving` returns."""

    def __enter__(self) -> Self:
        for number, node in enumerate(IDS):
            part = ["--partition", "iid", "--share", f"{number}/{len(DEFAULT_WORKERS)}"] if self._thirds else []
            role = ["--testing"] if node in DEFAULT_EVALUATOR else [*self._of_workers, *part]
            own = ["--id", node, "--port", str(self._ports[node]), *role, "--until-eof"]
            command = [sys.executable, "-m", "fedws", "worker", *own, *self._flags]
            self._processes[node] = subprocess.Popen(  # noqa: S603
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            reader = threading.Thread(target=self._read, args=(node,), daemon=True)
            reader.start()
            self._readers.append(reader)
        return self

    def wait_serving(self, seconds: float = 600.0) -> None:
        """Wait until every node serves. Raises RunFailed, with the node's last line, when one ends instead."""
        while len(self.urls) < len(IDS):
            try:
                node, url = self._news.get(timeout=seconds)
            except Empty:
                waiting = ", ".join(set(IDS) - set(self.urls))
                raise RunFailed(f"no word from {waiting} in {seconds:g} s") from None
            if not url:
                raise RunFailed(f"{node} has ended: {self._last.get(node, 'it said nothing')}")
            self.urls[node] = url
        self.urls = {node: self.urls[node] for node in IDS}

    def wait_ended(self) -> str:
        """Wait until a node ends; gives its id."""
        while True:
            node, url = self._news.get()
            if not url:
                return node

    def _read(self, node: str) -> None:
        stream = self._processes[node].stdout
        assert stream is not None
        for line in stream:
            self._last[node] = line.rstrip("\n")
            self._say(node, line.rstrip("\n"))
            if line.startswith(node + _SERVING):
                self._news.put((node, line.partition(_SERVING)[2].strip()))
        self._news.put((node, ""))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            with contextlib.suppress(OSError):
                process.terminate()
        for process in self._processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for reader in self._readers:
            reader.join()
        for process in self._processes.values():
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
