"""Commands whose store cannot be used: one line, before a node serves or a run begins."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.processes import Processes, assert_one_line
from tests.helpers.s3_proxy import ENVIRONMENT, StoreProxy, refuses, served


@pytest.fixture(scope="module")
def proxy() -> Iterator[StoreProxy]:
    with served() as found:
        yield found


COMMANDS = ["worker --id alice --port 0 --dataset digits", "evaluator --id testing --port 0 --dataset digits", "run"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_store_that_cannot_be_used_is_one_line(command: str, proxy: StoreProxy, tmp_path: Path) -> None:
    environment = {**ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.server_port}"}
    started = Processes(tmp_path, {**environment, "HOME": "home"})
    try:
        name, host = command.partition(" ")[0], f"127.0.0.1:{proxy.server_port}"
        missing = started.fork(*command.split(), "--body-store", "s3://missing/x")
        assert_one_line(missing, f"^fedws {name}: s3://missing/x: bucket 'missing' not found at {host}; create it, ", 2)
        bucket = proxy.bucket()
        proxy.make("PutObject", refuses(403, "AccessDenied"))
        refused = started.fork(*command.split(), "--body-store", f"s3://{bucket}/x")
        line = rf"s3://{bucket}/x: {host} rejects PutObject with these credentials \(AccessDenied\)"
        assert_one_line(refused, f"^fedws {name}: {line}$", 2)
        assert not any(tmp_path.rglob("runs")), "no run has begun"
    finally:
        started.close()
