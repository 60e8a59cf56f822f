"""An answer that is made although its link was lost meanwhile: it is kept for the run's next link, and counts once."""

import asyncio
import contextlib
import threading
from dataclasses import replace
from pathlib import Path

import pytest

import fedws
from fedws.core.limits import NO_MESSAGE_LIMITS
from fedws.network.base import Channel, Limits
from fedws.network.lookup import find_transport
from fedws.node.server import NodeServer, serve
from fedws.node.worker import Worker
from fedws.privacy.audit_chain import read_lines
from fedws.privacy.audit_log import AuditLog
from fedws.privacy.policy import Policy
from fedws.protocol.messages import Hello, TaskRequest, TaskResult, Welcome
from fedws.security.credentials import INSECURE
from tests.helpers.federation import PATIENCE, address, happens, worker
from tests.helpers.virtual_runs import DATA

ORDER = TaskRequest(request_id="1/alice", worker="alice", round=1, task="fedavg.fit")


class LastBatch:
    """A task that does not look at its signal to stop any more when that comes, as in its last batch."""

    def __init__(self) -> None:
        self.entered, self.times = threading.Event(), 0

    def __call__(self, order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
        self.times += 1
        self.entered.set()
        assert workspace.stop.wait(PATIENCE)
        return workspace.build_result(order, {"times": self.times})


async def call(url: str) -> Channel:
    """Connect as one run until the node has ended the link before."""
    while True:
        channel = await find_transport(url).connect(url, Limits())
        await channel.send(Hello(run="cafe", node="alice", protocol=1))
        if isinstance(await channel.receive(), Welcome):
            return channel
        await channel.close()


@pytest.mark.parametrize("scheme", ["memory", "ws"])
async def test_it_is_sent_on_the_next_link(scheme: str, tmp_path: Path) -> None:
    """Else an honest run would be refused for its day's limit, after an answer that it never had."""
    task, log = LastBatch(), tmp_path / "log"
    policy, tasks = Policy(max_answers_per_day=1), {"fedavg.fit": task}
    node = Worker("alice", "points", DATA, tasks=tasks, policy=policy, audit_log=AuditLog(log))
    async with asyncio.timeout(PATIENCE), serve(node, address(scheme, "alice"), Limits(), INSECURE) as url:
        channel = await call(url)
        await channel.send(ORDER)
        await happens(task.entered)
        await channel.close()
        channel = await call(url)
        await channel.send(replace(ORDER, request_id="2/alice"))
        report = await channel.receive()
        assert isinstance(report, TaskResult) and report.metrics == {"times": 1}, report
        await channel.close()
    lines = [(line["outcome"], line["counted_as"], line["resent"]) for line in read_lines(log) if line]
    assert lines == [("result", "request", False), ("result", "", True)]


async def test_a_node_that_ends_in_between_can_be_served_again() -> None:
    """Its signal to stop is taken back when the thread is free, however the waiting for it ended."""
    task = LastBatch()
    node = worker(task=task)
    opened, stop = threading.Event(), node.stop

    def stopped() -> None:  # the task goes on until the test opens it
        threading.Thread(target=lambda: (opened.wait(PATIENCE), stop())).start()

    node.stop = stopped  # type: ignore[method-assign]
    with contextlib.closing(NodeServer(node, Limits())) as service:
        working = asyncio.create_task(service._run_in_thread(node.execute, ORDER, NO_MESSAGE_LIMITS))
        await happens(task.entered)
        for _ in range(2):
            working.cancel()
            await asyncio.sleep(0)
        assert working.cancelled()
        opened.set()
        await asyncio.get_running_loop().run_in_executor(service._executor, lambda: None)
        await asyncio.sleep(0)
    assert not node._stop_event.is_set()
