"""Large bodies through an object store: the same model as over links alone, and what the store does wrong is said."""

import contextlib
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import fedws
from fedws.core.errors import StoreError
from fedws.network.base import Limits
from fedws.object_store.backends.file import FileStore
from fedws.object_store.base import BodyStore, Store
from fedws.security.credentials import INSECURE
from tests.helpers.federation import WORKERS, Points, evaluating, happens, settings
from tests.helpers.virtual_runs import assert_same


class Recording:
    """A store that remembers what it was asked, and does wrong what a test says."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._store = FileStore(folder.as_uri(), 5)
        self.asked: list[tuple[str, str]] = []
        self.refused: Mapping[str, str] = {}
        self.spared = 0
        self.dropped = threading.Event()

    def check_access(self) -> None:
        self._store.check_access()

    def put(self, run: str, name: str, body: Sequence[memoryview], stop: threading.Event | None = None) -> None:
        self._ask("put", name)
        self._store.put(run, name, body, stop=stop)

    def get(self, run: str, name: str, buffer: memoryview, stop: threading.Event | None = None) -> None:
        self._ask("get", name)
        self._store.get(run, name, buffer, stop=stop)
        if "alter" in self.refused:
            buffer[5] ^= 1

    def delete(self, run: str, name: str) -> None:
        self._ask("drop", name)
        self._store.delete(run, name)
        self.dropped.set()

    def delete_run(self, run: str) -> None:
        self._ask("clean", "")
        self._store.delete_run(run)

    def _ask(self, what: str, name: str) -> None:
        self.asked.append((what, name))
        if what in self.refused and self.count(what) > self.spared:
            raise StoreError(self.refused[what])

    def count(self, what: str) -> int:
        return sum(asked == what for asked, _ in self.asked)


class Stores:
    """One for each node, all in one folder; None for a node that has none."""

    def __init__(self, folder: Path, without: Sequence[str] = ()) -> None:
        self.folder = folder
        self.of = {name: Recording(folder) for name in (*WORKERS, "testing", "coordinator") if name not in without}

    def shelf(self, node: str, above: int = 0) -> BodyStore | None:
        store: Store | None = self.of.get(node)
        return None if store is None else BodyStore(store, above)

    @property
    def left(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]


@contextlib.asynccontextmanager
async def federation(stores: Stores, above: int = 0) -> AsyncIterator[dict[str, Any]]:
    async with contextlib.AsyncExitStack() as stack:
        urls = {}
        for name in (*WORKERS, "testing"):
            node = evaluating() if name == "testing" else fedws.Worker(name, "points", Points(Path(), True))
            there = fedws.serve(node, f"memory://{name}", Limits(), INSECURE, stores.shelf(name, above))
            urls[name] = await stack.enter_async_context(there)
        yield settings(urls, rounds=3)


async def run(stores: Stores, folder: Path, above: int = 0, **more: Any) -> fedws.RunResult:
    async with federation(stores, above) as found:
        return await fedws.run(run_dir=folder, body_store=stores.shelf("coordinator", above), **{**found, **more})


@pytest.fixture
async def plain(tmp_path: Path) -> fedws.RunResult:
    """The same run over links alone."""
    return await run(Stores(tmp_path / "none", (*WORKERS, "testing", "coordinator")), tmp_path / "plain")


async def test_the_model_is_the_same_and_nothing_is_left(plain: fedws.RunResult, tmp_path: Path) -> None:
    stores = Stores(tmp_path / "store")
    assert_same(await run(stores, tmp_path / "run"), plain)
    rounds, coordinator = 3, stores.of["coordinator"]
    for name in WORKERS:
        assert (stores.of[name].count("get"), stores.of[name].count("put")) == (rounds + 1, rounds), "and a test blob"
    models = {name for what, name in coordinator.asked if what == "put"}
    assert coordinator.count("get") == rounds * len(WORKERS)
    assert len(models) >= rounds, "each model, and those that are scored"
    assert coordinator.count("clean") == len(WORKERS) + 2 and stores.left == []
    assert all(len(names) == 64 for names in models)


async def test_what_is_not_needed_any_more_is_deleted_while_the_run_goes_on(tmp_path: Path) -> None:
    stores, most = Stores(tmp_path / "store"), 0

    def look(record: Any) -> None:
        nonlocal most
        most = max(most, len(stores.left))

    async with federation(stores) as found:
        shelf = stores.shelf("coordinator")
        given = {**found, "rounds": 12, "evaluator": {}}
        await fedws.run(run_dir=tmp_path / "run", body_store=shelf, observers=[look], **given)
    assert 0 < most <= 2 * (len(WORKERS) + 1), "of this round and the one before"
    assert stores.left == []


async def test_bytes_that_go_through_the_store_are_counted_once(tmp_path: Path) -> None:
    """A model is put once for all who are asked, and each report once."""
    given: dict[str, Any] = {"model": "mlp:inputs=4,hidden=300", "rounds": 1, "evaluator": {}}
    result = await run(Stores(tmp_path / "store"), tmp_path / "run", **given)
    size = sum(tensor.numel() * 4 for tensor in result.model.values())
    (record,) = (record for record in result.metrics if record["kind"] == "round")
    assert size > 300_000
    assert abs(record["bytes_sent"] - size) < 20_000
    assert abs(record["bytes_received"] - len(WORKERS) * size) < 20_000


async def test_small_bodies_stay_on_the_link(plain: fedws.RunResult, tmp_path: Path) -> None:
    stores = Stores(tmp_path / "store")
    assert_same(await run(stores, tmp_path / "run", above=2**20), plain)
    assert all(stores.of[name].count("put") == 0 and stores.of[name].count("get") == 1 for name in WORKERS)
    assert stores.of["coordinator"].count("put") == 1 and stores.of["coordinator"].count("get") == 0, "the test blob"


@pytest.mark.parametrize("without", [("bob",), ("coordinator",), (*WORKERS, "testing")])
async def test_who_has_no_store_is_sent_bodies_on_the_link(
    plain: fedws.RunResult, without: Sequence[str], tmp_path: Path
) -> None:
    stores = Stores(tmp_path / "store", without)
    assert_same(await run(stores, tmp_path / "run"), plain)
    used = {name for name, store in stores.of.items() if store.count("put") > (name == "coordinator")}
    assert used == ({"alice", "charlie", "coordinator"} if without == ("bob",) else set())


@pytest.mark.parametrize("node", ["bob", "coordinator"])
async def test_a_body_that_a_store_does_not_take_goes_on_the_link(
    node: str, plain: fedws.RunResult, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stores = Stores(tmp_path / "store")
    stores.of[node].refused = {"put": "s3://bucket: refused (403)"}
    assert_same(await run(stores, tmp_path / "run"), plain)
    line = f"{node}: a body was not stored, and bodies are sent on the link: s3://bucket: refused (403)"
    assert caplog.text.count(line) == 1
    assert stores.left == []


async def test_an_order_whose_body_cannot_be_had_fails_and_the_node_alone_knows_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stores = Stores(tmp_path / "store")
    stores.of["bob"].refused, stores.of["bob"].spared = {"get": "s3://bucket: refused (403)"}, 1  # the test blob
    await run(stores, tmp_path / "run", min_results=2)
    log = (tmp_path / "run" / "run.log").read_text()
    assert "bob failed: cannot fetch the request from its object store (see its log)\n" in log, "not which store it is"
    assert "bob: cannot read the body of a request: s3://bucket: refused (403)" in caplog.text
    assert stores.left == []


async def test_two_sides_with_different_stores_are_an_error_before_the_first_round(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stores, others = Stores(tmp_path / "store"), Stores(tmp_path / "other")
    stores.of["bob"] = others.of["bob"]
    message = "bob does not find the coordinator's test blob; set the same --body-store on both sides"
    with pytest.raises(fedws.FedwsError, match=f"^bob at memory://bob: {message}$"):
        await run(stores, tmp_path / "run")
    assert not (tmp_path / "run" / "run.log").exists(), "no round has begun"
    assert "bob: the object store lacks the test blob of the coordinator, which may use another: " in caplog.text
    assert stores.left == []


async def test_the_log_names_the_store_and_who_uses_it(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    body_store = fedws.open_store(f"file://{folder}", 500_000)
    async with federation(Stores(folder, ("bob",))) as found:
        await fedws.run(run_dir=tmp_path / "run", body_store=body_store, **found)
    log = (tmp_path / "run" / "run.log").read_text()
    assert f"Bodies above 0.5 MB go through file://{folder}: alice, charlie\n" in log
    assert "Bodies go over the link, since these workers have no --body-store: bob\n" in log


async def test_a_report_whose_body_cannot_be_had_is_a_failure(tmp_path: Path) -> None:
    stores = Stores(tmp_path / "store")
    stores.of["coordinator"].refused = {"get": "s3://bucket: refused (403)"}
    with pytest.raises(fedws.RunFailed, match=r"failed: s3://bucket: refused \(403\)"):
        await run(stores, tmp_path / "run")
    assert stores.left == []


async def test_a_body_that_the_store_has_altered_is_a_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stores = Stores(tmp_path / "store")
    stores.of["bob"].refused = {"alter": ""}
    await run(stores, tmp_path / "run", min_results=2)
    assert "bob: cannot read the body of a request: body does not match its declared SHA-256 digest" in caplog.text


async def test_a_store_that_cannot_be_cleaned_is_said_and_the_run_has_its_model(
    plain: fedws.RunResult, tmp_path: Path
) -> None:
    stores = Stores(tmp_path / "store")
    stores.of["coordinator"].refused = {"clean": "s3://bucket: refused (403)"}
    assert_same(await run(stores, tmp_path / "run"), plain)
    log = (tmp_path / "run" / "run.log").read_text()
    assert "The bodies of this run were not deleted from the object store: s3://bucket: refused (403)" in log


async def test_what_a_node_put_for_a_run_that_is_gone_is_deleted_when_it_is_forgotten(tmp_path: Path) -> None:
    stores = Stores(tmp_path / "store")
    node = fedws.Worker("alice", "points", Points(Path(), True))
    limits = Limits(peer_timeout=0.2)
    async with fedws.serve(node, "memory://alice", limits, INSECURE, stores.shelf("alice")) as url:
        given = settings({"alice": url}, rounds=1)
        await fedws.run(run_dir=tmp_path / "run", body_store=stores.shelf("coordinator"), **given)
        await happens(stores.of["alice"].dropped)
    assert stores.left == []
