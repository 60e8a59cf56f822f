import importlib
import json
import math
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.__main__ import BENCHMARKS
from benchmarks.harness import machine_load, tables
from benchmarks.harness.job import free_ports
from benchmarks.harness.machine_load import Reading, busy, others
from benchmarks.harness.pairs import Pair, Run, Summary, added, summaries, verdict
from benchmarks.harness.processes import Child, Crew
from benchmarks.network import coordinator_memory
from benchmarks.network.round_overhead import Traffic, loopback, traffics
from benchmarks.simulation import straggler_time, straggler_time_on_links
from benchmarks.simulation.scheduler_memory import feed
from benchmarks.simulation.slow_worker import paced
from fedws import TaskContext, TaskRequest, TaskResult
from fedws.core import registry
from tests.helpers.support import REPOSITORY, registered_by_benchmarks

QUIET, NOISY = 0.02, 0.5


@pytest.fixture(autouse=True, scope="module")
def _forgotten() -> Iterator[None]:
    """The pieces that the benchmarks register are no others' when these tests are over."""
    yield
    for name in registered_by_benchmarks():
        del registry._pieces[name]


def pair(ours: float, theirs: float, others: float = QUIET) -> Pair:
    return Pair(Run(ours, others), Run(theirs, QUIET))


def test_a_ratio_is_ours_over_theirs() -> None:
    assert pair(3, 2).ratio == 1.5


@pytest.mark.parametrize(("ours", "theirs", "disturbed"), [(0, 0, False), (0.15, 0, False), (0.16, 0, True)])
def test_a_pair_is_disturbed_when_one_run_is(ours: float, theirs: float, disturbed: bool) -> None:
    assert Pair(Run(1, ours), Run(1, theirs)).disturbed is disturbed
    assert Pair(Run(1, theirs), Run(1, ours)).disturbed is disturbed


def test_the_load_before_a_run_does_not_mark_it() -> None:
    assert not Run(1, QUIET, before=NOISY).disturbed


def test_a_summary_is_median_min_and_max() -> None:
    assert Summary.of([4, 1, 2, 3]) == Summary(4, 2.5, 1, 4)
    assert Summary.of([]) is None


def test_summaries_are_of_all_pairs_and_of_the_undisturbed() -> None:
    everything, quiet = summaries([pair(1, 1), pair(3, 1, NOISY), pair(2, 1)])
    assert everything == Summary(3, 2, 1, 3)
    assert quiet == Summary(2, 1.5, 1, 2)


def test_a_target_is_held_against_undisturbed_pairs() -> None:
    *_, last = verdict([pair(1, 1), pair(9, 1, NOISY), pair(9, 1, NOISY)], target=1.1)
    assert last == "target: at most 1.1; within it"


def test_without_undisturbed_pairs_the_verdict_says_so() -> None:
    lines = verdict([pair(2, 1, NOISY)], target=1.1)
    assert lines[1].endswith("none")
    assert lines[2] == "target: at most 1.1; disturbed, but above it"
    assert verdict([]) == ["no pairs"]


def test_a_table_of_pairs_shows_the_disturbed_ones() -> None:
    text = tables.ratios("ours", "echo", [pair(1.0, 2.0), pair(3.0, 2.0, NOISY)])
    _, _, first, second, *_ = text.splitlines()
    assert first.split()[:4] == ["1", "1.000", "2.000", "0.500"]
    assert "disturbed" not in first
    assert second.endswith("disturbed")


def test_a_table_is_as_wide_as_its_widest_cells() -> None:
    assert tables.table(["a", "b"], [["long", 1.0], ["x", 22]]).splitlines() == [
        "a         b",
        "----  -----",
        "long  1.000",
        "x        22",
    ]


def test_busy_time_leaves_out_idling_and_guests() -> None:
    assert busy(f"cpu  1 2 4 {10**9} {10**9} 8 16 32 64 128\ncpu0 9 9") == pytest.approx(63 * machine_load.TICK)


def test_others_are_the_busy_time_that_is_not_ours() -> None:
    assert others(Reading(0, 5, 1), Reading(2, 8, 3)) == 0.5
    assert others(Reading(0, 5, 1), Reading(2, 6, 3)) == 0, "clocks tick; a little less than nothing is nothing"


def test_own_time_includes_children_before_and_after_their_end() -> None:
    before = machine_load.own()
    with Crew() as crew:
        child = crew.start("busy", "-c", "import time\nwhile time.process_time() < 0.3: pass\nprint('spent')\ninput()")
        child.process.wait(20)
    assert machine_load.own() - before >= 0.25


def test_traffic_without_headers() -> None:
    assert Traffic(100, 100 + 52 * 3, 3).payload == 100
    assert "within it" in traffics([Traffic(1001, 1200, 2)], 1000)
    assert "above it" in traffics([Traffic(1001, 1200, 2), Traffic(1003, 1200, 2)], 1000)
    assert all(count >= 0 for count in loopback())


def test_ports_are_free_and_different() -> None:
    assert len(set(free_ports(4))) == 4


def test_lines_are_kept_with_their_time() -> None:
    with Crew() as crew:
        child = crew.start("teller", "-c", "print('one 1'); print('two 2')")
        at, found = child.wait_for(r"two (\d)", 20)
        assert found[1] == "2"
        assert child.started < at <= child.finish(20)
        assert [match[1] for _, match in child.matches(r"(one|two)")] == ["one", "two"]


def test_a_process_that_fails_is_told_of_with_its_last_lines() -> None:
    with Crew() as crew:
        child = crew.start("liar", "-c", "print('so far'); raise SystemExit(3)")
        with pytest.raises(RuntimeError, match=r"(?s)liar printed no line that matches 'serving'.*so far"):
            child.wait_for("serving", 20)
        with pytest.raises(RuntimeError, match="liar ended with code 3"):
            child.finish(20)


STUBBORN = """
import signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("grandchild", child.pid, flush=True)
time.sleep(60)
"""
"""A process and its child that outlast the test unless they are ended."""


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_processes_end_with_the_block_and_their_children_too(error: type[BaseException]) -> None:
    with pytest.raises(error), Crew() as crew:
        child = crew.start("parent", "-c", STUBBORN)
        _, found = child.wait_for(r"grandchild (\d+)", 20)
        raise error
    assert child.process.poll() is not None
    assert _gone(int(found[1]))


def test_a_signal_waits_until_a_process_can_be_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def interrupted(*given: object) -> Child:
        signal.raise_signal(signal.SIGINT)
        made.append(Child("sleeper", [sys.executable, "-c", "import time; time.sleep(60)"]))
        return made[0]

    monkeypatch.setattr("benchmarks.harness.processes.Child", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which who runs the tests may have taken away
    try:
        with pytest.raises(KeyboardInterrupt), Crew() as crew:
            crew.start("sleeper")
    finally:
        signal.signal(signal.SIGINT, before)
    assert made[0].process.poll() is not None


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_can_be_run_by_name(name: str) -> None:
    assert callable(importlib.import_module(f"benchmarks.{BENCHMARKS[name]}").main)


def test_a_slope_is_held_against_its_target() -> None:
    flat, steep = [10**7, 10**7 + 1000, 10**7 + 2000], [0, 10**8, 2 * 10**8]
    assert coordinator_memory.verdict((10, 20, 30), flat).startswith("100 bytes a worker, 0.0001 of a model")
    assert coordinator_memory.verdict((10, 20, 30), flat).endswith("within it")
    assert coordinator_memory.verdict((10, 20, 30), steep).endswith("above it")


def test_a_strategy_is_fed_to_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    feed(3, 2)
    before, after = (int(line.removeprefix("bytes ")) for line in capsys.readouterr().out.splitlines())
    assert 0 < before <= after


@pytest.mark.long
def test_no_checkpoint_is_stored_where_the_plugin_says_so(tmp_path: Path) -> None:
    imports = "import sys, pathlib\nfrom benchmarks.harness.without_checkpoints import Checkpoints"
    code = f"{imports}\nCheckpoints(pathlib.Path(sys.argv[1])).save(1, {{}}, {{}})"
    with Crew() as crew:
        crew.start("unsaved", "-c", code, str(tmp_path)).finish(60)
    assert not list(tmp_path.iterdir())


def test_the_best_asynchronous_strategy_is_the_one_that_counts() -> None:
    times = {"fedavg": [6.0, 9.0, 8.0], "fedbuff": [2.0, 3.0, math.inf], "fedasync": [4.0, 3.0, 4.0]}
    assert straggler_time.speedups(times, "fedbuff") == [3, 3, 0]
    assert (
        straggler_time.verdict(times, True)
        == "the best asynchronous algorithm is 3.0 times faster; target: at least 3; within it"
    )
    assert straggler_time.verdict(times, False).endswith("no target")
    assert straggler_time.report(times).splitlines()[3].split() == ["fedbuff", "3", "2", "inf", "3.0", "0.0", "3.0"]


def test_the_time_to_a_target_is_that_of_the_versions_up_to_it(tmp_path: Path) -> None:
    records = [{"kind": "round", "round": version, "seconds": 1.5} for version in (1, 2, 3, 4)]
    scores = [{"kind": "evaluation", "round": version, "accuracy": version / 4} for version in (1, 2, 3)]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records + scores), encoding="utf-8")
    assert straggler_time_on_links.reached(path, 0.5) == 3.0


def test_a_paced_task_takes_its_time_and_can_be_told_to_stop() -> None:
    report, order = (
        TaskResult(request_id="1/a", worker="a", round=1, num_examples=1),
        TaskRequest(request_id="1/a", worker="a", round=1, task="t"),
    )
    workspace, begun = TaskContext("a", "mnist", []), time.monotonic()
    assert paced(lambda order, workspace: report, 0.1)(order, workspace) is report
    assert time.monotonic() - begun >= 0.1
    workspace.stop.set()
    assert paced(lambda order, workspace: report, 100)(order, workspace) is report
    assert time.monotonic() - begun < 50


def test_what_a_variant_adds_is_the_median_of_the_differences() -> None:
    assert added([pair(3, 2), pair(2, 2), pair(9, 1)]) == 1


def _gone(pid: int) -> bool:
    until = time.monotonic() + 5
    while time.monotonic() < until:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)  # between two looks
    return False


TEXTS = [path.read_text(encoding="utf-8") for path in (REPOSITORY / "benchmarks").rglob("*.py")]
NAMED = {name for text in TEXTS for name in re.findall(r'"(benchmarks[./][\w./]+)"', text)}


@pytest.mark.parametrize("name", sorted(NAMED))
def test_a_module_or_plugin_that_a_benchmark_starts_exists(name: str) -> None:
    file = REPOSITORY / (name if "/" in name else f"{name.replace('.', '/')}.py")
    assert file.is_file()
