"""Mistakes with keys, certificates, policies and audit logs: one clear line, and nothing is left."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedws.security import certificates
from tests.helpers.credential_flags import KEY
from tests.helpers.processes import Processes, assert_one_line


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """A folder with files that are good and bad."""
    folder = tmp_path_factory.mktemp("flags")
    certificates.create_ca(folder / "certs")
    certificates.issue_certificate(folder / "certs", "alice")
    texts = {"junk": "junk", "unknown.toml": "task = ['*']", "named.toml": "coordinators = ['lab']", "good.key": KEY}
    texts |= {"many.toml": "min_samples = 100000", "syntax.toml": "tasks = ["}
    for name, text in texts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)
    started = Processes(folder, {"XDG_STATE_HOME": str(folder / "state"), "HOME": str(folder)})
    yield started
    started.close()


WORKER = "worker --id alice --port 0 --dataset digits"
RUN = "run --dataset digits --run-dir never --evaluator none --workers"
OWN = "--tls-cert certs/alice.pem --tls-key certs/alice.key"
FLAGS = [
    (f"{WORKER} --key-file none", "cannot read --key-file none: No such file or directory$"),
    (
        f"{WORKER} --key-file junk",
        "--key-file junk is not a network key; expected 64 hexadecimal digits",
    ),
    (f"{RUN} alice=ws://localhost:1 --key-file none", "cannot read --key-file none: No such file or directory$"),
    (f"{RUN} alice=ws://localhost:1 --key-file certs", "cannot read --key-file certs: Is a directory$"),
    (f"{WORKER} --insecure --key-file good.key", "--insecure cannot be combined with --key-file; remove one of them$"),
    (
        f"{WORKER} --tls-cert certs/alice.pem",
        "--tls-cert and --tls-key must be set together: a certificate and its",
    ),
    (f"{WORKER} --tls-key certs/alice.key", "--tls-cert and --tls-key must be set together: a certificate and its"),
    (
        f"{WORKER} --tls-cert certs/alice.pem --tls-key certs/ca.key",
        "--tls-key certs/ca.key is not the key of ",
    ),
    (f"{WORKER} --tls-cert junk --tls-key certs/alice.key", "--tls-cert junk is not a certificate, or --tls-key "),
    (f"{WORKER} --tls-ca certs/ca.pem", "wss:// requires a certificate; set --tls-cert and --tls-key"),
    (f"{WORKER} {OWN} --tls-ca none", "cannot read --tls-ca none: No such file or directory$"),
    (
        f"{RUN} alice=ws://localhost:1 --tls-ca certs/ca.pem",
        "ws://localhost:1 is not encrypted, .*use wss://$",
    ),
    (
        f"{RUN} alice=ws://localhost:1 {OWN} --id alice",
        "ws://localhost:1 is not encrypted, but",
    ),
    (
        f"{RUN} alice=wss://localhost:1 {OWN}",
        "--tls-cert certs/alice.pem is the certificate of alice, not of coord",
    ),
    (f"{RUN} alice=wss://:1", "'wss://:1' is not a valid address"),
    (f"{WORKER} --policy none", "--policy none: No such file or directory$"),
    (f"{WORKER} --policy unknown.toml", "--policy unknown.toml: unknown setting 'task'$"),
    (f"{WORKER} --policy syntax.toml", "--policy syntax.toml: Invalid value"),
    (
        f"{WORKER} --policy named.toml",
        "coordinators are identified by their certificates; add --tls-cert, --tls-key",
    ),
    (
        f"{WORKER} --policy named.toml {OWN}",
        "coordinators are identified by their certificates; .* and --tls-ca$",
    ),
    (f"{WORKER} --policy many.toml", "--policy many.toml: alice holds [0-9]+ samples, expected at least 100000$"),
    (
        "certs issue bob --dir none",
        "cannot read the CA in none: No such file or directory; run 'fedws certs init' first$",
    ),
    ("certs issue", "issue requires the id of a node, such as alice$"),
    ("certs init alice", "init does not accept names; remove them$"),
    ("certs init --dir certs", "certs/ca.pem already exists; remove it first"),
    ("certs init --dir junk/certs", "cannot write junk/certs: "),
    ("certs issue bob --dir certs --days 0", "--days: expected 1 to 36500, got 0$"),
    ("certs issue ../bob --dir certs", "'../bob' is not a valid node id"),
    ("certs sign bob", "invalid choice: 'sign'"),
    ("key nonsense", "invalid choice: 'nonsense'"),
    ("key", "arguments are required: what"),
    ("key show --key-file junk", "--key-file junk is not a network key"),
    ("key new --key-file junk/key", "cannot write junk/key: "),
    ("audit nobody", "audit/nobody.jsonl: file not found; nodes with a log there: .+$"),
    ("audit nobody --verify", "audit/nobody.jsonl: file not found; nodes with a log there: .+$"),
]


@pytest.mark.parametrize(("argv", "pattern"), FLAGS)
def test_a_mistake_is_one_line_and_leaves_nothing(prepared: Processes, argv: str, pattern: str) -> None:
    """But for an audit log, which a node has before it listens."""

    def files() -> list[Path]:
        return sorted(path for path in prepared.folder.rglob("*") if "state" not in path.parts)

    before = files()
    assert_one_line(prepared.fork(*argv.split()), pattern, 2)
    assert files() == before
