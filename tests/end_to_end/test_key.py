"""The network key as people meet it: the commands, as processes, from a bare start."""

import re
import stat

from tests.helpers.credential_flags import DIGITS, KEY, OTHER, SHORT
from tests.helpers.processes import NODES, Processes, assert_one_line, dialling, ended_well, identity, serving

SERVES = r" is serving at (wss?://\S+)$"


def with_environment(processes: Processes, **changes: str) -> Processes:
    """The same folder, another environment: another device."""
    return Processes(processes.folder, {**processes.environment, **changes})


def test_four_nodes_that_start_at_once_share_one_new_key(bare: Processes) -> None:
    """Nobody has configured anything; and on loopback nobody is told of anything either."""
    commands = {node: bare.fork("worker", *identity(node), *DIGITS) for node in NODES}
    urls = serving(commands)
    place = bare.folder / "config" / "fedws" / "network.key"
    assert [path.name for path in place.parent.iterdir()] == ["network.key"]
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    run = ended_well(bare.fork("run", *dialling(urls), *SHORT))
    assert any(line.startswith("Federated accuracy after round 1: ") for line in run.lines)
    key = place.read_text().strip()
    assert re.fullmatch("[0-9a-f]{64}", key)
    for command in (*commands.values(), run):
        assert not re.search("key|insecure", command.everything.replace(str(bare.folder), "")), command.everything
        assert key not in command.everything
    assert not any(key.encode() in path.read_bytes() for path in (bare.folder / "run").rglob("*") if path.is_file())
    shown = ended_well(bare.fork("key", "show"))
    assert shown.lines == [key]


def test_a_new_key_is_not_shown_but_the_command_that_prints_it(bare: Processes) -> None:
    node = bare.fork("worker", *identity("alice"), *DIGITS, "--host", "0.0.0.0")
    node.line("^a network key was created: .*; print it with 'fedws key show'$")
    node.line(
        r"^attackers on the network can read .* of alice .*: "
        r"the network key does not prevent it, TLS does \(--tls-cert\)$"
    )
    url = node.line(SERVES)[1].replace("0.0.0.0", "127.0.0.1")
    (key,) = ended_well(bare.fork("key", "show")).lines
    assert key not in node.everything, "a journal holds what a node prints"
    there = with_environment(bare, XDG_CONFIG_HOME=str(bare.folder / "elsewhere"), FEDWS_KEY=key)
    try:
        ended_well(there.fork("run", *dialling({"alice": url}), *SHORT))
        assert not (bare.folder / "elsewhere").exists()
    finally:
        there.close()
    again = bare.fork("worker", *identity("bob"), *DIGITS, "--host", "0.0.0.0")
    again.line(SERVES)
    assert "fedws key show" not in again.everything, "it was said by the node that made it"


def test_where_no_key_can_be_made_nothing_starts(bare: Processes) -> None:
    (bare.folder / "config").write_text("in the way")
    pattern = "network key not found, and cannot create one in .*--key-file or FEDWS_KEY, or pass --insecure$"
    commands = [
        bare.fork("worker", *identity("alice"), *DIGITS),
        bare.fork("run", "--workers", "alice=ws://localhost:1", *SHORT),
        bare.fork("key", "show"),
    ]
    for command in commands:
        assert_one_line(command, pattern, 2)
    assert_one_line(bare.fork("key", "new"), "cannot write .*config/fedws/network.key: ", 2)
    assert not (bare.folder / "run").exists()
    (bare.folder / "mine.key").write_text(f"{OTHER}\n")
    (bare.folder / "mine.key").chmod(0o600)
    bare.fork("worker", *identity("alice"), *DIGITS, "--key-file", "mine.key").line(SERVES)
    bare.fork("worker", *identity("alice"), *DIGITS, "--insecure").line(SERVES)


def test_another_key_is_refused_with_what_to_do(given: Processes) -> None:
    (given.folder / "other.key").write_text(f"{OTHER}\n")
    (given.folder / "other.key").chmod(0o600)
    node = given.fork("worker", *identity("alice"), *DIGITS)
    urls = serving({"alice": node})
    run = given.fork("run", *dialling(urls), *SHORT, "--key-file", "other.key", "--wait-for-workers", "forever")
    assert_one_line(run, f"alice at {urls['alice']}: alice has a different network key; .*--key-file or FEDWS_KEY", 1)
    assert not (given.folder / "run").exists()
    node.line("alice: a peer at 127.0.0.1 disconnected without proving the network key")
    ended_well(given.fork("run", *dialling(urls), *SHORT))
    for command in (run, node):
        assert KEY not in command.everything and OTHER not in command.everything


def test_insecure_on_one_side_is_refused_by_the_other_and_said_by_both(given: Processes) -> None:
    guarded = given.fork("worker", *identity("alice"), *DIGITS)
    opened = given.fork("worker", *identity("bob"), *DIGITS, "--insecure")
    urls = serving({"alice": guarded, "bob": opened})
    opened.line(r"\| bob: authentication is disabled \(--insecure\); any peer can run tasks")
    run = given.fork("run", *dialling({"alice": urls["alice"]}), *SHORT, "--insecure")
    what = r"alice requires the network key \(--key-file or FEDWS_KEY\), but the coordinator uses --insecure$"
    assert_one_line(run, what, 1)
    run = given.fork("run", *dialling({"bob": urls["bob"]}), *SHORT)
    assert_one_line(run, r"it does not authenticate \(--insecure\); set its --key-file or FEDWS_KEY$", 1)
    run = ended_well(given.fork("run", *dialling({"bob": urls["bob"]}), *SHORT, "--insecure"))
    run.line("--insecure: the workers are not authenticated$")
    assert "insecure" not in guarded.everything.replace("uses --insecure", "")


def test_key_shows_and_replaces(bare: Processes) -> None:
    made = bare.fork("key", "show")
    assert made.end() == 0 and made.errors == [
        f"created a new network key in {bare.folder / 'config' / 'fedws' / 'network.key'}"
    ]
    first = made.lines
    assert ended_well(bare.fork("key", "show")).lines == first
    (told,) = ended_well(bare.fork("key", "new")).lines
    assert told.startswith(f"a new key is in {bare.folder / 'config' / 'fedws' / 'network.key'}; ")
    second = ended_well(bare.fork("key", "show")).lines
    assert first != second and len(first) == len(second) == 1
    (told,) = ended_well(bare.fork("key", "new", "--key-file", "my.key")).lines
    assert first[0] not in told and stat.S_IMODE((bare.folder / "my.key").stat().st_mode) == 0o600
    third = ended_well(bare.fork("key", "show", "--key-file", "my.key")).lines
    assert third == [(bare.folder / "my.key").read_text().strip()]
    assert ended_well(bare.fork("key", "show")).lines == second


def test_a_new_key_that_is_not_used_is_told_of(given: Processes) -> None:
    """FEDWS_KEY goes before it; not before a file that is named."""
    place = given.folder / "config" / "fedws" / "network.key"
    (told,) = ended_well(given.fork("key", "new")).lines
    assert told == f"a new key is in {place}, but FEDWS_KEY is set and takes precedence; unset FEDWS_KEY"
    assert ended_well(given.fork("key", "show")).lines == [KEY] != [place.read_text().strip()]
    (told,) = ended_well(given.fork("key", "new", "--key-file", "my.key")).lines
    assert told.startswith("a new key is in my.key; ")
    del given.environment["FEDWS_KEY"]
    assert ended_well(given.fork("key", "show")).lines == [place.read_text().strip()]
