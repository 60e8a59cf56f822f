"""Launcher that starts, watches and always ends the four default nodes as processes of this machine."""

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self

from fedws.core.demo_nodes import DEFAULT_EVALUATOR, DEFAULT_WORKERS
from fedws.core.errors import RunFailed

NODE_IDS = (*DEFAULT_WORKERS, *DEFAULT_EVALUATOR)
_SERVING_TEXT = " is serving at "


class NodeProcesses:
    """Processes of alice, bob, charlie and testing, which run while the context is open.

    The command line of every node gets ``flags``, and that of every worker also ``worker_flags``. ``on_line`` is called
    with a node's id and each line that it prints. With ``split_dataset`` each worker holds a third of the data set.
    The nodes listen on consecutive ports from ``first_port`` on, or on free ports if it is 0. They watch their standard
    input, and therefore end with this process, however it ends.
    """

    def __init__(
        self,
        flags: Sequence[str],
        on_line: Callable[[str, str], None],
        first_port: int,
        worker_flags: Sequence[str] = (),
        *,
        split_dataset: bool = False,
    ) -> None:
        self._flags = flags
        self._worker_flags = worker_flags
        self._split_dataset = split_dataset
        self._ports = {node: first_port and first_port + number for number, node in enumerate(NODE_IDS)}
        self._on_line = on_line
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._readers: list[threading.Thread] = []
        self._events: SimpleQueue[tuple[str, str]] = SimpleQueue()
        self._last_lines: dict[str, str] = {}
        self.urls: dict[str, str] = {}
        """URL of each node by its id, complete once ``wait_until_serving`` returns."""

    def __enter__(self) -> Self:
        for number, node in enumerate(NODE_IDS):
            part = ["--partition", "iid", "--share", f"{number}/{len(DEFAULT_WORKERS)}"] if self._split_dataset else []
            role = ["--evaluator"] if node in DEFAULT_EVALUATOR else [*self._worker_flags, *part]
            own = ["--id", node, "--port", str(self._ports[node]), *role, "--until-eof"]
            command = [sys.executable, "-m", "fedws", "worker", *own, *self._flags]
            self._processes[node] = subprocess.Popen(  # noqa: S603
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            reader = threading.Thread(target=self._read_output, args=(node,), daemon=True)
            reader.start()
            self._readers.append(reader)
        return self

    def wait_until_serving(self, timeout: float = 600.0) -> None:
        """Wait until every node serves.

        Raise RunFailed with a node's last line if it ends first. Also raise it if no node starts to serve for
        ``timeout`` seconds.
        """
        while len(self.urls) < len(NODE_IDS):
            try:
                node, url = self._events.get(timeout=timeout)
            except Empty:
                waiting = ", ".join(set(NODE_IDS) - set(self.urls))
                raise RunFailed(f"{waiting} did not start to serve within {timeout:g} s") from None
            if not url:
                raise RunFailed(f"{node} ended before it served: {self._last_lines.get(node, 'no output')}")
            self.urls[node] = url
        self.urls = {node: self.urls[node] for node in NODE_IDS}

    def wait_for_exit(self) -> str:
        """Wait until a node ends, and return its id."""
        while True:
            node, url = self._events.get()
            if not url:
                return node

    def _read_output(self, node: str) -> None:
        stream = self._processes[node].stdout
        assert stream is not None
        for line in stream:
            self._last_lines[node] = line.rstrip("\n")
            self._on_line(node, line.rstrip("\n"))
            if line.startswith(node + _SERVING_TEXT):
                self._events.put((node, line.partition(_SERVING_TEXT)[2].strip()))
        self._events.put((node, ""))

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
