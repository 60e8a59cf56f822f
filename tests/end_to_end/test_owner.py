"""A node's owner: a policy ends a run by name and reason, and an audit log is printed and verified."""

import re
import shutil

from tests.helpers.credential_flags import DIGITS, SHORT, made, shown
from tests.helpers.processes import Processes, assert_one_line, dialling, ended_well, identity, serving


def test_a_policy_ends_a_run_by_name_and_reason(given: Processes) -> None:
    (given.folder / "policy.toml").write_text('tasks = ["evaluate"]\n')
    urls = given.nodes(*DIGITS, "--policy", "policy.toml", nodes=("alice", "testing"))
    run = given.fork("run", *dialling(urls), *SHORT)
    assert run.end() == 1, run.everything
    why = "alice: refused the request: policy: task 'fedavg.fit' is not allowed"
    assert len(run.errors) == 1 and why in run.errors[0], run.everything
    _, *table = ended_well(given.fork("audit", "alice")).lines
    assert len(table) == 2 and all(re.search(r"coordinator fedavg\.fit .* reason ", line) for line in table[::2])
    assert {line.strip() for line in table[1::2]} == {"refused: policy: task 'fedavg.fit' is not allowed"}


def test_coordinators_are_named_in_a_policy_and_known_by_their_certificates(given: Processes) -> None:
    made(given, "alice", "lab", "coordinator")
    (given.folder / "policy.toml").write_text('coordinators = ["lab"]\n')
    node = given.fork("worker", *identity("alice"), *DIGITS, "--policy", "policy.toml", *shown("alice"))
    urls = serving({"alice": node})
    run = given.fork("run", *dialling(urls), *SHORT, *shown("coordinator"))
    assert_one_line(run, f"alice at {urls['alice']}: the policy of alice does not allow coordinator$", 1)
    ended_well(given.fork("run", *dialling(urls), *SHORT, *shown("lab"), "--id", "lab"))
    table = ended_well(given.fork("audit", "alice")).lines
    assert len(table) == 2 and " lab " in table[1] and " tensors " in table[1]


def test_an_audit_log_is_printed_verified_and_its_edits_found(given: Processes) -> None:
    urls = given.nodes(*DIGITS, nodes=("alice", "testing"))
    ended_well(given.fork("run", *dialling(urls), *SHORT[2:], "--rounds", "3"))
    path = given.folder / "state" / "fedws" / "audit" / "alice.jsonl"
    heading, *rows = ended_well(given.fork("audit", "alice")).lines
    assert heading.split() == ["time", "(UTC)", "coordinator", "task", "model", "payload", "bytes", "epsilon"]
    assert len(rows) == 3 and all(len(row) <= 80 for row in (heading, *rows))
    assert all(re.search(r"coordinator fedavg\.fit +\S+ +tensors +\d{4,}$", row) for row in rows)
    assert all(" metrics " in row for row in ended_well(given.fork("audit", "testing")).lines[1:])
    (line,) = ended_well(given.fork("audit", "alice", "--verify")).lines
    assert re.fullmatch(rf"{path}: 3 lines, unchanged; the hash of the last line is [0-9a-f]{{64}}", line)

    whole = path.read_bytes()
    one, two, three = whole.splitlines(keepends=True)
    follows = "does not follow the previous line: a line was removed, added or moved"
    cases = [
        ([one, two.replace(b"fedavg.fit", b"evaluate  "), three], "line 2 was edited"),
        ([one, three], f"line 2 {follows}"),
        ([two, one, three], f"line 1 {follows}"),
        ([one, two], "missing lines at the end: 1; alice.jsonl.head counts 3 lines"),
        ([whole, three], "uncounted lines at the end: 1;"),
    ]
    checks = []
    for number, (lines, _) in enumerate(cases):
        copy = given.folder / str(number) / "alice.jsonl"
        copy.parent.mkdir()
        copy.write_bytes(b"".join(lines))
        shutil.copy(f"{path}.head", f"{copy}.head")
        checks.append(given.fork("audit", str(copy), "--verify"))
    for check, (_, said) in zip(checks, cases, strict=True):
        assert check.end() == 1, check.everything
        assert check.lines[0].startswith(said), check.everything
        assert check.errors == []
    path.write_bytes(one)
    cut = given.fork("worker", *identity("alice"), *DIGITS)
    assert_one_line(cut, "cannot append to audit log .*alice.jsonl: lines are missing at its end; choose another", 2)


def test_a_node_whose_log_cannot_be_written_does_not_start(given: Processes) -> None:
    (given.folder / "file").write_text("")
    node = given.fork("worker", *identity("alice"), *DIGITS, "--audit-log", "file/log")
    assert_one_line(node, r"cannot append to audit log file/log: .+; choose another with --audit-log", 2)
