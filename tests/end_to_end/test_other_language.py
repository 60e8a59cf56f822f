"""The worker in JavaScript: it agrees with fedws byte by byte, learns in a run, and outlives whoever means it ill."""

import asyncio
import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgpack
import pytest
import torch
from torch.nn.functional import nll_loss
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from fedws import handshake, wire
from fedws.algorithms.fedavg import fit
from fedws.data.digits import Digits
from fedws.errors import LinkLost, Refused
from fedws.interfaces import Channel, Limits
from fedws.learning import Workspace, initial
from fedws.messages import Challenge, Failure, Hello, Order, Proof, Refusal, Report, Welcome
from fedws.samples import select
from fedws.transport.ws import Ws
from tests.processes import PATIENCE, Command, Processes, dialling, identity, serving
from tests.protocol_page import KEY, example
from tests.support import REPOSITORY, recorded, require

FOLDER = REPOSITORY / "examples" / "other_language"
NETWORK = bytes.fromhex("5e" * 32)
"""The key in FEDWS_KEY while tests run."""
HELD = (0, 1, 2, 3, 4)
"""The digits that the worker in JavaScript holds."""


@pytest.fixture(scope="module")
def node() -> str:
    """The interpreter; skips when it, or a package that the worker uses, is not here."""
    found = shutil.which("node")
    packages = [FOLDER / "node_modules" / name / "package.json" for name in ("ws", "@msgpack/msgpack")]
    require(
        found and all(map(Path.is_file, packages)), f"node, or its packages (npm ci in {FOLDER.name}), are not here"
    )
    assert found is not None
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its samples, as the README makes them."""
    file = tmp_path_factory.mktemp("samples") / "alice.json"
    command = [sys.executable, str(FOLDER / "export_digits.py"), str(file), "--digits", *map(str, HELD)]
    subprocess.run(command, check=True, timeout=PATIENCE, cwd=REPOSITORY)
    return file


def alice(processes: Processes, node: str, data: Path, *flags: str) -> Command:
    """The worker as a process."""
    return processes.execute(node, str(FOLDER / "worker.mjs"), "--id", "alice", "--data", str(data), *flags)


@pytest.fixture(scope="module")
def served(node: str, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Command]]:
    """One worker for the tests that only call it, which must be the same process after each; its URL."""
    processes = Processes(tmp_path_factory.mktemp("alice"), {})
    try:
        command = alice(processes, node, data)
        yield serving({"alice": command})["alice"], command
    finally:
        processes.close()


@pytest.fixture
async def url(served: tuple[str, Command]) -> AsyncIterator[str]:
    """Where it serves; after the test it must go on serving."""
    yield served[0]
    async with dialled(served[0]):
        assert served[1].errors == []


async def met(channel: Channel, run: str = "run", key: bytes = NETWORK, node: str = "alice") -> Welcome | Refusal:
    """What comes of the handshake, as the coordinator makes it; one of the same run takes over. Raises Refused."""
    hello = Hello(run=run, node=node, protocol=1, nonce=handshake.nonce())
    await channel.send(hello)
    challenge = await channel.receive()
    assert isinstance(challenge, Challenge)
    await channel.send(handshake.prove(key, hello, challenge))
    answer = await channel.receive()
    assert isinstance(answer, Welcome | Refusal)
    return answer


@contextlib.asynccontextmanager
async def dialled(url: str, run: str = "run", limits: Limits = Limits()) -> AsyncIterator[Channel]:  # noqa: B008
    """A link that has been welcomed."""
    async with asyncio.timeout(PATIENCE):
        channel = await Ws().connect(url, limits)
        try:
            welcome = await met(channel, run)
            assert isinstance(welcome, Welcome), welcome
            channel.admit()
            yield channel
        finally:
            await channel.close()


async def asked(url: str, order: Order) -> Report | Failure:
    """The answer to an order."""
    async with dialled(url) as channel:
        await channel.send(order)
        answer = await channel.receive()
    assert isinstance(answer, Report | Failure)
    return answer


def order(**changed: Any) -> Order:
    """To train the linear model on all samples at once, three times; ``changed`` are fields, or settings."""
    settings = {"model": "linear", "dataset": "digits", "lr": 0.05, "batch_size": 1000, "batches": 9, "epochs": 3}
    fields = {key: changed.pop(key) for key in [*changed] if key in Order.__dataclass_fields__}
    base: dict[str, Any] = {"id": "1/alice", "worker": "alice", "round": 1, "task": "fedavg.fit", "seed": 2**64 - 7}
    tensors = initial("linear", 1).state_dict()
    return Order(**{**base, "settings": {**settings, **changed}, "tensors": tensors, **fields})


def held() -> Workspace:
    """The same samples, in Python."""
    digits = Digits(REPOSITORY, train=True)
    return Workspace(
        "alice", "digits", select(digits, torch.isin(digits.targets, torch.tensor(HELD)).nonzero().flatten())
    )


def script(node: str, code: str, *arguments: str) -> str:
    """What a piece of JavaScript prints, with what the worker knows of bytes imported."""
    module = (FOLDER / "protocol.mjs").as_uri()
    source = f"import {{ proof, read, write }} from {json.dumps(module)};\n{code}"
    command = [node, "--input-type=module", "--eval", source, "--", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ------------------------------------------------------------------ bytes


def test_the_proof_is_the_same(node: str) -> None:
    """Of the page's test vector, and of texts that are not ASCII."""
    code = """const [key, hello, challenge] = process.argv.slice(1).map((text) => JSON.parse(text));
    for (const side of ["node", "coordinator"]) console.log(proof(Buffer.from(key, "hex"), side, hello, challenge));"""
    other = Hello(run="Zürich ⁂ 𝄞", node="b", protocol=1, coordinator="", nonce="0f" * 32)
    for hello, challenge in (
        (example(Hello), example(Challenge)),
        (other, Challenge(node="é", nonce="1e" * 32, proof="")),
    ):
        told = [json.dumps(KEY.hex()), json.dumps(vars(hello)), json.dumps(vars(challenge))]
        sides = [handshake.proof(KEY, side, hello, challenge.node, challenge.nonce) for side in ("node", "coordinator")]
        assert script(node, code, *told).split() == sides
    assert handshake.proof(KEY, "node", example(Hello), "alice", example(Challenge).nonce) == example(Challenge).proof


def test_it_reads_what_fedws_writes_and_the_other_way_round(node: str) -> None:
    """The page's examples: those that a worker gets, and a report."""
    code = """const shown = (key, value) => (typeof value === "bigint" ? String(value) : value);
    for (const [at, hex] of process.argv.slice(1).entries()) {
      const { tensors, ...fields } = read(Buffer.from(hex, "hex"), ["hello", "proof", "order"][at]);
      const values = [...tensors].map(([name, { shape, bytes }]) => [name, shape, bytes.toString("hex")]);
      console.log(JSON.stringify({ fields, values }, shown));
    }
    const tensors = [
      { name: "w", shape: [2, 1], values: Float32Array.of(1.5, -2) },
      { name: "e", shape: [0], values: new Float32Array() },
      { name: "b", shape: [1], values: Float32Array.of(0.25) },
    ];
    const head = { order: "1", worker: "alice", round: 2n ** 40n };
    const fields = { ...head, samples: 3, metrics: { loss: 0.5, samples: 3, device: "cpu" } };
    console.log(write("report", fields, tensors).toString("hex"));"""
    messages = [example(Hello), example(Proof), example(Order)]
    encoded = [b"".join(bytes(piece) for piece in wire.encode(message).fragments()).hex() for message in messages]
    *lines, report = script(node, code, *encoded).splitlines()
    for message, text in zip(messages, lines, strict=True):
        fields = {**vars(message)}
        tensors = fields.pop("tensors", {})
        told = json.loads(text)
        assert told["fields"] == {key: str(value) if key == "seed" else value for key, value in fields.items()}
        assert told["values"] == [[key, [*t.shape], t.numpy().tobytes().hex()] for key, t in tensors.items()]
    decoder = wire.Decoder()
    decoder.feed(bytes.fromhex(report))
    found = decoder.message()
    assert isinstance(found, Report) and (found.round, found.metrics["loss"]) == (2**40, 0.5)
    assert {name: tensor.tolist() for name, tensor in found.tensors.items()} == {
        "w": [[1.5], [-2.0]],
        "e": [],
        "b": [0.25],
    }


# ------------------------------------------------------------------ learning


async def test_its_update_is_that_of_fedws(url: str) -> None:
    """Of batches that hold all samples, so that their order does not matter."""
    answer, wanted = await asked(url, order()), fit(order(), held())
    assert isinstance(answer, Report), answer
    assert (answer.order, answer.worker, answer.round, answer.samples) == ("1/alice", "alice", 1, len(held().data))
    assert answer.metrics == {**wanted.metrics, "loss": pytest.approx(wanted.metrics["loss"], rel=1e-4)}
    assert answer.tensors.keys() == wanted.tensors.keys()
    for name, tensor in wanted.tensors.items():
        torch.testing.assert_close(answer.tensors[name], tensor, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(tensor, order().tensors[name], atol=1e-3), "something was learned"


@pytest.mark.parametrize("loss", ["nll", "cross_entropy"])
async def test_its_update_is_plain_sgd_over_its_own_order_of_samples(url: str, loss: str) -> None:
    """Its shuffle is written down in linear.mjs; the same seed gives the same update, another one another."""
    changed = {"batch_size": 50, "batches": 20, "epochs": 2, "loss": loss}
    answer = await asked(url, order(**changed))
    assert isinstance(answer, Report), answer
    work, tensors, total, left = held(), {**order().tensors}, 0.0, 20
    for epoch in range(2):
        hashes = [
            hashlib.sha256(f"{2**64 - 7}/{epoch}/{sample}".encode()).hexdigest() for sample in range(len(work.data))
        ]
        shuffled = sorted(range(len(hashes)), key=hashes.__getitem__)
        for start in range(0, len(shuffled), 50):
            if not left:
                break
            left -= 1
            inputs, targets = work.data.batch(torch.tensor(shuffled[start : start + 50]))  # type: ignore[attr-defined]
            weight, bias = (tensor.clone().requires_grad_() for tensor in tensors.values())
            batch = nll_loss(torch.log_softmax(inputs.flatten(1) @ weight.T + bias, 1), targets)
            batch.backward()
            total += float(batch.detach()) * len(targets)
            for name, tensor in zip(tensors, (weight, bias), strict=True):
                assert tensor.grad is not None
                tensors[name] = (tensor - 0.05 * tensor.grad).detach()
    used = len(work.data) + 5 * 50  # fifteen batches, the last one short, and five
    assert left == 0 and len(work.data) // 50 == 14
    assert answer.metrics == {"loss": pytest.approx(total / used, rel=1e-4), "samples": used, "device": "cpu"}
    for name, tensor in tensors.items():
        torch.testing.assert_close(answer.tensors[name], tensor, rtol=1e-3, atol=1e-5)
    again, other = await asked(url, order(**changed)), await asked(url, order(**changed, seed=1))
    assert isinstance(again, Report) and isinstance(other, Report)
    assert torch.equal(again.tensors["dense.weight"], answer.tensors["dense.weight"])
    assert not torch.equal(other.tensors["dense.weight"], answer.tensors["dense.weight"])


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"task": "evaluate"}, "unknown task 'evaluate'"),
        ({"model": "mlp"}, "unknown model 'mlp'"),
        ({"model": "linear:inputs=4,outputs=10"}, "here are samples of 784 inputs"),
        ({"dataset": "mnist"}, "here is digits, not mnist"),
        ({"loss": "mse"}, "unknown loss 'mse'"),
        ({"optimizer": "adam"}, "unknown optimizer 'adam'"),
        ({"lr": 0.0}, "settings: lr is wrong"),
        ({"lr": "1"}, "settings: lr is wrong"),
        ({"batches": 0}, "settings: batches is wrong"),
        ({"other": 1}, "settings: other is not known"),
        ({"settings": {"dataset": "digits"}}, "settings: model is missing"),
        ({"tensors": {}}, "the tensors are not those of linear"),
        (
            {"tensors": {"dense.weight": torch.zeros(10, 784), "dense.bias": torch.zeros(10).half()}},
            "the tensors are not",
        ),
        ({"tensors": {**order().tensors, "more": torch.zeros(1)}}, "the tensors are not those of linear"),
    ],
)
async def test_what_it_does_not_support_is_refused(url: str, changed: dict[str, Any], reason: str) -> None:
    async with dialled(url) as channel:
        await channel.send(order(**changed))
        answer = await channel.receive()
        assert isinstance(answer, Failure), answer
        assert (answer.order, answer.kind) == ("1/alice", "refused") and answer.reason.startswith(reason), answer
        await channel.send(order(id="2", epochs=1))  # the link goes on
        assert isinstance(await channel.receive(), Report)


def test_it_learns_in_a_run_with_a_worker_in_python(processes: Processes, node: str, data: Path) -> None:
    """Half of the digits are here and half are there, so that neither could get beyond 52 % alone."""
    commands = {
        "alice": alice(processes, node, data),
        "bob": processes.fork("worker", *identity("bob"), "--dataset", "digits", "--digits", "5-9"),
        "testing": processes.fork("worker", *identity("testing"), "--dataset", "digits"),
    }
    flags = [*dialling(serving(commands)), "--dataset", "digits", "--model", "linear", "--training-rounds", "8"]
    flags += ["--federate-after-n-batches", "20", "--evaluate-every", "1", "--run-dir", "run"]
    run = processes.fork("run", *flags)
    assert run.end() == 0, run.everything
    folder = processes.folder / "run"
    scores = [float(str(r["accuracy"])) for r in recorded(folder, "score") if r["model"] == "federated"]
    assert len(scores) == 8
    assert scores[-1] > 0.75 and scores[-1] > scores[0] + 0.1, scores
    for record in recorded(folder, "round"):
        assert (record["answered"], record["failed"], record["cohort"]) == (2, 0, ["alice", "bob"])
    log = (folder / "run.log").read_text()
    assert all(f"Model update {worker}: Average loss" in log for worker in ("alice", "bob"))
    assert commands["alice"].errors == []


# ------------------------------------------------------------------ strangers


def test_with_another_key_it_is_refused(processes: Processes, node: str, data: Path) -> None:
    (processes.folder / "other.key").write_text("0F" * 32 + "\n")
    command = alice(processes, node, data, "--key-file", "other.key")
    run = processes.fork("run", *dialling(serving({"alice": command})), "--dataset", "digits", "--run-dir", "run")
    assert run.end() == 1
    assert "alice has another network key" in run.errors[-1]


@pytest.mark.parametrize("key", ["", "5e" * 31, "5g" * 32])
def test_without_a_key_it_does_not_start(processes: Processes, node: str, data: Path, key: str) -> None:
    processes.environment["FEDWS_KEY"] = key
    command = alice(processes, node, data)
    assert command.end() == 2
    assert command.errors == ["worker.mjs: a network key is 64 hexadecimal digits: see 'fedws key show'"]


def test_it_reads_the_user_s_own_key(processes: Processes, node: str, data: Path) -> None:
    """Where fedws has made it."""
    processes.environment.update(HOME=str(processes.folder))
    for name in ("FEDWS_KEY", "XDG_CONFIG_HOME"):
        processes.environment.pop(name, None)
    own = processes.folder / ".config" / "fedws" / "network.key"
    own.parent.mkdir(parents=True)
    own.write_text(NETWORK.hex() + "\n")
    at = serving({"alice": alice(processes, node, data)})["alice"]

    async def call() -> None:
        async with dialled(at):
            pass

    asyncio.run(call())


async def test_callers_that_do_not_know_the_key_are_refused(url: str) -> None:
    channel = await Ws().connect(url, Limits())
    with pytest.raises(Refused, match="alice has another network key"):
        await met(channel, key=bytes(32))
    await channel.close()
    for nonce, proof in (("ab" * 32, "00" * 32), ("", "")):
        channel = await Ws().connect(url, Limits())
        await channel.send(Hello(run="run", node="alice", protocol=1, nonce=nonce))
        if nonce:
            assert isinstance(await channel.receive(), Challenge)
            await channel.send(Proof(proof=proof))
        answer = await channel.receive()
        assert isinstance(answer, Refusal) and answer.kind == "key", answer
        with pytest.raises(LinkLost):
            await channel.receive()
        await channel.close()


async def test_its_own_proof_is_not_taken_back(url: str) -> None:
    channel = await Ws().connect(url, Limits())
    await channel.send(Hello(run="run", node="alice", protocol=1, nonce="ab" * 32))
    challenge = await channel.receive()
    assert isinstance(challenge, Challenge)
    await channel.send(Proof(proof=challenge.proof))
    answer = await channel.receive()
    assert isinstance(answer, Refusal) and answer.kind == "key", answer
    await channel.close()


async def test_who_else_is_refused(url: str) -> None:
    async with dialled(url, "0123456789abcdef"):
        channel = await Ws().connect(url, Limits())
        answer = await met(channel, "another")
        assert isinstance(answer, Refusal) and answer.kind == "busy"
        assert answer.reason.startswith("alice is busy with run 01234567 since 20")
        await channel.close()
    channel = await Ws().connect(url, Limits())
    answer = await met(channel, node="bob")
    assert isinstance(answer, Refusal) and (answer.kind, answer.reason) == ("node", "this is alice, not bob")
    await channel.close()
    channel = await Ws().connect(url, Limits())
    await channel.send(Hello(run="run", node="alice", protocol=2, nonce="ab" * 32))
    refusal = await channel.receive()
    assert isinstance(refusal, Refusal) and refusal.kind == "protocol"
    await channel.close()


async def test_the_same_run_takes_over_and_the_work_stops(url: str) -> None:
    async with dialled(url) as older:
        await older.send(order(batches=10**6, epochs=10**6))
        async with dialled(url) as newer:
            with pytest.raises(LinkLost, match="taken over by the same run"):
                await older.receive()
            await newer.send(order())
            assert isinstance(await newer.receive(), Report)


async def test_it_pings_while_it_trains(processes: Processes, node: str, data: Path) -> None:
    """A coordinator that never pings, whom nothing but the worker's own pings can tell that it lives."""
    at = serving({"alice": await asyncio.to_thread(alice, processes, node, data, "--silence", "4.5")})["alice"]
    async with dialled(at, limits=Limits(silence=2.4, heartbeat=PATIENCE)) as channel:
        await channel.send(order(batches=10**6, epochs=10**6))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(channel.receive(), 3.5)


async def test_orders_wait_for_their_turn(url: str) -> None:
    async with dialled(url) as channel:
        for number in range(6):
            await channel.send(order(id=str(number), epochs=1))
        answers = [await channel.receive() for _ in range(6)]
        assert [answer.order for answer in answers if isinstance(answer, Report)] == [*"012345"]


@pytest.mark.parametrize(
    ("changed", "reason"), [({}, "order 1/alice a second time"), ({"worker": "bob"}, "an order for bob; this is alice")]
)
async def test_wrong_orders_close_the_link(url: str, changed: dict[str, str], reason: str) -> None:
    async with dialled(url) as channel:
        await channel.send(order(epochs=1))
        assert isinstance(await channel.receive(), Report)
        await channel.send(order(**changed))
        with pytest.raises(LinkLost, match=reason):
            await channel.receive()


# ------------------------------------------------------------------ garbage


def raw(header: object, body: bytes = b"") -> bytes:
    """A message with any header."""
    packed: bytes = msgpack.packb(header) if not isinstance(header, bytes) else header
    head = wire.MAGIC + (1).to_bytes(4, "little") + len(packed).to_bytes(4, "little") + packed
    return head + bytes(-len(head) % 64) + body


def header(**changed: Any) -> dict[str, Any]:
    """That of a hello."""
    fields = {"run": "run", "node": "alice", "protocol": 1, "coordinator": "c", "nonce": "ab" * 32}
    whole: dict[str, Any] = {
        "type": "hello",
        "fields": fields,
        "tensors": [],
        "transfer": "",
        "digest": None,
        "offset": 0,
    }
    return {**whole, **changed}


def entry(**changed: Any) -> dict[str, Any]:
    """A tensor's in the table."""
    return {"name": "w", "dtype": "float32", "shape": [2], "length": 8, **changed}


FIELDS = header()["fields"]
GARBAGE: dict[str, tuple[bytes | str | list[bytes], int]] = {
    "text": ("hello", 4000),
    "nothing": (b"", 4000),
    "bytes": (bytes(range(256)), 4000),
    "half a prefix": (raw(header())[:9], 4000),
    "half a header": (raw(header())[:60], 4000),
    "another version": (b"FDWS\x02\0\0\0" + raw(header())[8:], 4000),
    "a header of 4 GB": (b"FDWS\1\0\0\0\xff\xff\xff\xff", 4000),
    "more than the header": (raw(header(), b"more"), 4000),
    "no map": (raw([1, 2]), 4000),
    "two maps": (raw(msgpack.packb(header()) * 2), 4000),
    "no msgpack": (raw(b"\xc1" * 40), 4000),
    "arrays in arrays": (raw(b"\x9f" * 60_000), 4000),
    "long arrays in arrays": (raw(b"\xdc\xff\xff" * 20_000), 4000),
    "an array of 4 G": (raw(b"\xdd\xff\xff\xff\xff"), 4000),
    "arrays in an array": (raw(header(fields=[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]])), 4000),
    "a path for a name": (raw(header(type="order", tensors=[entry(name="../w")]), bytes(8)), 4000),
    "maps in maps": (raw(b"\x81\xa1a" * 20_000), 4000),
    "a prototype": (raw(header(fields={**FIELDS, "__proto__": 1})), 4000),
    "a constructor": (raw(header(fields={**FIELDS, "constructor": 1})), 4000),
    "bytes for text": (raw(header(type=b"hello")), 4000),
    "a type that is none": (raw(header(type="toString")), 4000),
    "an order first": (raw(header(type="order")), 4000),
    "a missing key": (raw({key: value for key, value in header().items() if key != "digest"}), 4000),
    "an offset": (raw(header(offset=64)), 4000),
    "a long name": (raw(header(fields={**FIELDS, "run": "r" * 65})), 4000),
    "a short nonce": (raw(header(fields={**FIELDS, "nonce": "ab"})), 4000),
    "a hello with a tensor": (raw(header(tensors=[entry()]), bytes(8)), 4000),
    "a tensor cut short": (raw(header(tensors=[entry()]), bytes(7)), 4000),
    "a tensor of another length": (raw(header(tensors=[entry(length=4)]), bytes(4)), 4000),
    "a tensor of 2^60 bytes": (raw(header(tensors=[entry(shape=[2**40], length=2**42)])), 4000),
    "a dtype that is none": (raw(header(tensors=[entry(dtype="valueOf")]), bytes(8)), 4000),
    "a tensor twice": (raw(header(tensors=[entry(), entry()]), bytes(72)), 4000),
    "a proof that is none": ([raw(header()), raw(header(type="proof", fields={"proof": "00"}))], 4000),
    "a hello again": ([raw(header()), raw(header())], 4000),
    "too long before the proof": (bytes(2**16 + 1), 4000),
    "far too long before the proof": (bytes(2**20), 1006),
}
"""What is sent, and the code that the link is closed with; 1006 is none."""


@pytest.mark.parametrize("name", GARBAGE)
async def test_garbage_closes_the_link_and_ends_nothing(url: str, name: str) -> None:
    sent, code = GARBAGE[name]
    async with asyncio.timeout(PATIENCE), connect(url, compression=None) as socket:
        assert await closed(socket, sent if isinstance(sent, list) else [sent]) == code


async def closed(socket: ClientConnection, messages: Sequence[bytes | str]) -> int:
    """The code that it is closed with, once these were sent."""
    try:
        for message in messages:
            await socket.send(message)
        async for _ in socket:
            pass
    except ConnectionClosed:
        pass
    return socket.close_code or 1006


async def test_garbage_after_the_proof_closes_the_link(url: str) -> None:
    """Among it a table of more tensors than it reads, and arrays that would take all memory."""
    for data in (
        b"",
        raw(header()),
        raw(header(tensors=[entry(name=str(n)) for n in range(99)])),
        raw(b"\xdc\xff\xff" * 99_999),
    ):
        async with dialled(url) as channel:
            await channel._socket.send(data)  # type: ignore[attr-defined]
            with pytest.raises(LinkLost):
                await channel.receive()


@pytest.mark.parametrize(
    "sent",
    [b"", bytes(99), b"GET / HTTP/1.1\r\n\r\n", b"POST / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01", b"a" * 99_999],
    ids=["nothing", "zeros", "no host", "a request", "TLS", "no end"],
)
async def test_what_is_no_websocket_is_dropped(url: str, sent: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    with contextlib.suppress(OSError):  # it may be gone before all is written
        writer.write(sent)
        writer.write_eof()
        async with asyncio.timeout(PATIENCE):
            await reader.read()
    writer.close()


async def test_a_frame_that_breaks_the_rules_is_told(url: str) -> None:
    async with asyncio.timeout(PATIENCE), connect(url, compression=None) as socket:
        socket.transport.write(b"\xff\xff\xff\xff")
        assert await closed(socket, []) in (1002, 1006)


async def test_the_slow_are_dropped(processes: Processes, node: str, data: Path) -> None:
    """A sixth of silence is for all of the handshake; signs of life do not prolong it."""
    url = serving({"alice": await asyncio.to_thread(alice, processes, node, data, "--silence", "6")})["alice"]
    async with asyncio.timeout(PATIENCE), connect(url, compression=None, ping_interval=0.1) as socket:
        began = asyncio.get_running_loop().time()
        assert await closed(socket, []) == 1006
        assert 0.5 < asyncio.get_running_loop().time() - began < PATIENCE / 2
        async with dialled(url):
            pass


async def test_of_too_many_the_oldest_is_dropped(url: str) -> None:
    """64 may be in the handshake, each for ten seconds."""
    port, began = int(url.rpartition(":")[2]), asyncio.get_running_loop().time()
    async with asyncio.timeout(PATIENCE):
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(66)]
        assert await idle[0][0].read() == await idle[1][0].read() == b""
        assert asyncio.get_running_loop().time() - began < 10, "not for its slowness"
        assert not any(reader.at_eof() for reader, _ in idle[2:])
        for _, writer in idle:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
