"""The owner's policy and audit log on a node that a run asks: refusals by name and reason, and what is written down."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import fedws
from fedws.core.errors import RunFailed, UnexpectedNode
from fedws.node.evaluator import create_evaluator
from fedws.privacy.audit_chain import read_lines
from fedws.privacy.audit_log import AuditLog
from fedws.privacy.audit_verify import verify_log
from fedws.privacy.policy import Policy
from fedws.security import certificates
from fedws.security.credentials import Credentials
from fedws.security.network_key import NetworkKey
from fedws.security.tls import TlsConfig
from tests.helpers.federation import Points, settings

KEY = Credentials(NetworkKey(bytes(32), "a test"))


def node(name: str, policy: Policy | None = None, log: Path | None = None) -> fedws.Worker:
    """A worker, or the evaluator, with its owner's policy and log."""
    more: dict[str, Any] = {"policy": policy or Policy(), "audit_log": AuditLog(log) if log is not None else None}
    if name == "testing":
        return create_evaluator(name, "points", Points(Path(), False), **more)
    return fedws.Worker(name, "points", Points(Path(), True), **more)


@contextlib.asynccontextmanager
async def served(*nodes: fedws.Worker) -> AsyncIterator[dict[str, str]]:
    """Their addresses."""
    async with contextlib.AsyncExitStack() as stack:
        yield {
            served.node: await stack.enter_async_context(fedws.serve(served, "ws://localhost:0", credentials=KEY))
            for served in nodes
        }


REFUSED = {
    "task": (Policy(tasks=("evaluate",)), "policy: task 'fedavg.fit' is not allowed"),
    "model": (Policy(models=("mlp",)), "policy: model 'points_linear' is not allowed"),
    "samples": (
        Policy(min_samples=121),
        "policy: each released value requires at least 121 samples, this node has 120",
    ),
    "updates": (Policy(allow_updates=False), "policy: model updates are not allowed"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_a_run_that_asks_for_too_much_ends_with_the_owners_reason(what: str, tmp_path: Path) -> None:
    policy, reason = REFUSED[what]
    async with served(node("alice", policy, tmp_path / "log")) as urls:
        with pytest.raises(RunFailed) as error:
            await fedws.run(run_dir=tmp_path / "run", credentials=KEY, **settings(urls))
    assert str(error.value).endswith(f"alice: refused the request: {reason}"), "at the first refusal"
    lines = [line for line in read_lines(tmp_path / "log") if line is not None]
    assert [(line["outcome"], line["payload"]) for line in lines] == [("refused", "reason")]
    assert verify_log(tmp_path / "log")[1] == []


async def test_others_go_on_without_the_one_that_refuses(tmp_path: Path) -> None:
    async with served(node("alice", Policy(allow_updates=False)), node("bob")) as urls:
        result = await fedws.run(run_dir=tmp_path / "run", credentials=KEY, **settings(urls, min_results=1, rounds=2))
    assert [record["num_results"] for record in result.metrics if "num_results" in record] == [1, 1]
    assert "policy: model updates are not allowed" in (tmp_path / "run" / "run.log").read_text()


async def test_what_is_allowed_is_done_and_written_down(tmp_path: Path) -> None:
    """A policy that fits, on workers and evaluator; their logs hold each answer, and what left."""
    shared: dict[str, Any] = {"models": ("points_*",), "max_epochs": 1, "min_samples": 40}
    policies = {
        "alice": Policy(tasks=("*.fit",), max_answers_per_day=2, **shared),
        "testing": Policy(tasks=("evaluate",), max_answers_per_day=4, **shared),
    }
    logs = {name: tmp_path / f"{name}.jsonl" for name in policies}
    async with served(*(node(name, policies[name], log) for name, log in logs.items())) as urls:
        await fedws.run(run_dir=tmp_path / "run", credentials=KEY, **settings(urls))
    left = {name: [(line["task"], line["payload"]) for line in read_lines(log) if line] for name, log in logs.items()}
    assert left["alice"] == 2 * [("fedavg.fit", "tensors")]
    assert left["testing"] == 4 * [("evaluate", "metrics")], "of alice's model and the federated one, in two rounds"
    for line in read_lines(logs["alice"]):
        assert line is not None
        assert (line["coordinator"], line["model"], line["node"]) == ("coordinator", "points_linear", "alice")
        assert (line["peer"], line["dataset"], line["counted_as"]) == ("", "points", "request"), "nothing proves the id"
        assert line["num_bytes"] > 4 * 50, "ten neurons of four weights and a bias, in float32"
    assert all(verify_log(log)[1] == [] for log in logs.values())


async def test_a_days_rounds_are_used_up_over_runs_and_the_next_run_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The refusal states when the next round is allowed: no strike, and no request before."""
    caplog.set_level(logging.INFO, "fedws")
    why = "policy: the limit of 3 answers a day is reached; the next one is allowed in 24 h"
    line = f"alice is postponed for 24 h: it refused the request: {why}"
    async with served(node("alice", Policy(max_answers_per_day=3), tmp_path / "log")) as urls:
        await fedws.run(run_dir=tmp_path / "one", credentials=KEY, **settings(urls))
        second = asyncio.create_task(
            fedws.run(run_dir=tmp_path / "two", credentials=KEY, peer_timeout=0.5, **settings(urls))
        )
        async with asyncio.timeout(60):
            while "Waiting for alice, which gets its next request in 24 h" not in caplog.messages:
                await asyncio.sleep(0.02)
        assert not second.done() and caplog.messages.count(line) == 1
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
    assert [entry["payload"] for entry in read_lines(tmp_path / "log") if entry] == 3 * ["tensors"] + ["reason"]


async def test_where_the_log_cannot_be_written_no_update_leaves(tmp_path: Path) -> None:
    log = tmp_path / "log"
    made = node("alice", log=log)
    log.with_name("log.head").unlink()
    log.with_name("log.head").mkdir()
    async with served(made) as urls:
        with pytest.raises(RunFailed, match="cannot write the audit log, so no answer is sent"):
            await fedws.run(run_dir=tmp_path / "run", credentials=KEY, **settings(urls))


async def test_only_named_coordinators_may_ask(tmp_path: Path) -> None:
    """Known by their certificates; whatever they call themselves."""
    folder = tmp_path / "certs"
    certificates.create_ca(folder)
    for name in ("alice", "coordinator", "lab"):
        certificates.issue_certificate(folder, name)

    def security(name: str) -> Credentials:
        return Credentials(KEY.key, TlsConfig(folder / f"{name}.pem", folder / f"{name}.key", folder / "ca.pem"), name)

    alice = node("alice", Policy(coordinators=("lab",)), tmp_path / "log")
    async with fedws.serve(alice, "wss://localhost:0", credentials=security("alice")) as url:
        for name, said in (("coordinator", "coordinator"), ("alice", "alice")):
            with pytest.raises(UnexpectedNode, match=f"the policy of alice does not allow {said}$"):
                await fedws.run(run_dir=tmp_path / "never", credentials=security(name), **settings({"alice": url}))
        result = await fedws.run(run_dir=tmp_path / "run", credentials=security("lab"), **settings({"alice": url}))
    assert [record["num_results"] for record in result.metrics if "num_results" in record] == [1, 1]
    assert {line["peer"] for line in read_lines(tmp_path / "log") if line} == {"lab"}, "uploads are counted by it"


async def test_without_certificates_nobody_is_a_named_coordinator(tmp_path: Path) -> None:
    async with served(node("alice", Policy(coordinators=("*",)))) as urls:
        with pytest.raises(UnexpectedNode, match=r"does not allow a coordinator without a certificate$"):
            await fedws.run(run_dir=tmp_path / "never", credentials=KEY, **settings(urls))
