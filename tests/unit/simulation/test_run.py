"""Whole runs over a simulated fleet: reproducible to the byte, bounded, and told."""

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedws.core.plan import Plan
from fedws.core.untrusted_text import PRINTABLE_FILTER
from fedws.simulation import conditions, fleet
from fedws.simulation.plans import build_plans
from fedws.simulation.run import SimulationResult, run_simulation
from tests.helpers.federation import Points, evaluating, registered

FLEET = {
    "num_workers": 5,
    "disconnects_per_hour": 20,
    "mean_offline_minutes": 2,
    "slowdown": "pareto:1.5",
    "seconds_per_sample": 1.0,
}


@pytest.fixture(autouse=True)
def _known(no_pictures: None) -> Iterator[None]:
    with registered():
        yield


def prepared(
    strategy: str = "fedavg", seed: int = 1, rounds: int = 6, **settings: Any
) -> tuple[Plan, fleet.SimulatedFleet]:
    found = conditions.build_conditions({**FLEET, "seed": seed, **settings})
    devices = fleet.build_fleet(found, "points", Points(Path(), True))
    given = {"dataset": "points", "rounds": rounds, "evaluate_every": 2, "peer_timeout": 60.0, "seed": seed}
    (plan,) = build_plans(
        [strategy], {**given, "batch_size": 8}, fleet.name_workers(found.num_workers), found.online_fraction
    )
    return plan, devices


def simulate(
    directory: Path, strategy: str = "fedavg", seed: int = 1, rounds: int = 6, **settings: Any
) -> SimulationResult:
    plan, devices = prepared(strategy, seed, rounds, **settings)
    return run_simulation(plan, directory, devices, evaluating())


def events(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "events.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("strategy", ["fedavg", "fedsgd", "fedbuff:buffer_size=3", "fedasync"])
def test_the_same_seed_gives_the_same_bytes_and_another_does_not(strategy: str, tmp_path: Path) -> None:
    one, again, other = (simulate(tmp_path / str(n), strategy, seed) for n, seed in enumerate((1, 1, 2)))
    assert one == again != other
    for name in ("events.jsonl", "metrics.jsonl"):
        first, second, third = ((tmp_path / str(n) / name).read_bytes() for n in range(3))
        assert first == second != third


def test_what_is_told_fits_together(tmp_path: Path) -> None:
    outcome, told = simulate(tmp_path / "run"), events(tmp_path / "run")
    assert {event["event"] for event in told} == {
        "connected",
        "disconnected",
        "request",
        "result",
        "lost",
        "version",
        "evaluation",
    }
    assert [event["t"] for event in told] == sorted(event["t"] for event in told)
    assert outcome.event_counts == {
        kind: sum(event["event"] == kind for event in told) for kind in outcome.event_counts
    }
    ended = [event["request_id"] for event in told if event["event"] in ("result", "lost")]
    assert len(ended) == len(set(ended)) and set(ended) <= {e["request_id"] for e in told if e["event"] == "request"}
    assert outcome.num_versions == 6 and [e["version"] for e in told if e["event"] == "version"] == list(range(1, 7))
    scores = [(event["t"], event["accuracy"]) for event in told if event["event"] == "evaluation"]
    assert [(round(when, 6), accuracy) for when, accuracy in outcome.evaluations] == scores
    assert [event["version"] for event in told if event["event"] == "evaluation"] == [1, 3, 5, 6]
    assert outcome.accuracy == scores[-1][1] and outcome.seconds == outcome.evaluations[-1][0] and not outcome.failure


def test_a_device_that_is_away_gets_no_order(tmp_path: Path) -> None:
    simulate(tmp_path / "run", rounds=10)
    here: set[str] = set()
    for event in events(tmp_path / "run"):
        if event["event"] == "connected":
            here.add(event["worker"])
        elif event["event"] == "disconnected":
            here.discard(event["worker"])
        elif "worker" in event and event["event"] != "lost":
            assert event["worker"] in here, event


def test_the_same_devices_come_and_go_at_the_same_times_for_every_strategy(tmp_path: Path) -> None:
    left = []
    for strategy in ("fedavg", "fedasync"):
        outcome = simulate(tmp_path / strategy, strategy)
        left.append([(e["t"], e["worker"]) for e in events(tmp_path / strategy) if e["event"] == "disconnected"])
        assert outcome.event_counts["disconnected"] == len(left[-1]) > 3
    shorter, longer = sorted(left, key=len)
    assert longer[: len(shorter)] == shorter


def test_a_round_takes_as_long_as_its_slowest_device(tmp_path: Path) -> None:
    plan, devices = prepared(disconnects_per_hour=0, rounds=3)
    outcome = run_simulation(plan, tmp_path / "run", devices, evaluating())
    slowest = max(devices.slowdowns[node] * len(part) for node, part in devices.sample_indices.items())
    assert outcome.seconds == pytest.approx(3 * slowest)
    seconds = [
        json.loads(line)["seconds"]
        for line in (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        if '"round", "round"' in line
    ]
    assert seconds == pytest.approx([slowest] * 3)


def test_a_deadline_is_kept_to_the_second(tmp_path: Path) -> None:
    plan, devices = prepared(disconnects_per_hour=0, rounds=3)
    slowest = max(devices.slowdowns[node] * len(part) for node, part in devices.sample_indices.items())
    plan = plan.model_copy(update={"round_timeout": slowest / 2, "min_results": 1})
    outcome = run_simulation(plan, tmp_path / "run", devices, evaluating())
    first = next(event for event in events(tmp_path / "run") if event["event"] == "version")
    assert first["t"] == round(slowest / 2, 6) and first["num_results"] == 4
    assert outcome.num_versions == 3 and outcome.seconds <= 3 * slowest / 2


def test_a_target_that_several_scores_reach_at_once_ends_the_run_once(tmp_path: Path) -> None:
    """All devices are equal, so an asynchronous strategy makes several versions at the same moment."""
    equal: dict[str, Any] = {
        "disconnects_per_hour": 0,
        "slowdown": "uniform:1,high=1",
        "target_accuracy": 0.01,
        "stop_at_target": True,
    }
    plan, devices = prepared("fedasync", rounds=4, **equal)
    plan = plan.model_copy(update={"evaluate_every": 1})
    outcome = run_simulation(plan, tmp_path / "run", devices, evaluating())
    assert outcome.seconds == outcome.evaluations[0][0] == 24 and not outcome.failure


def test_without_a_barrier_versions_come_sooner(tmp_path: Path) -> None:
    rounds = simulate(tmp_path / "rounds", "fedavg", disconnects_per_hour=0)
    versions = simulate(tmp_path / "versions", "fedbuff:buffer_size=5", disconnects_per_hour=0)
    assert rounds.num_versions == versions.num_versions == 6
    assert versions.seconds < rounds.seconds, (versions, rounds)


def test_the_target_ends_a_run(tmp_path: Path) -> None:
    whole = simulate(tmp_path / "whole", rounds=20)
    target = whole.evaluations[3][1]
    short = simulate(tmp_path / "short", rounds=20, target_accuracy=target, stop_at_target=True)
    assert short.seconds == short.seconds_to_accuracy(target) == whole.seconds_to_accuracy(target) != whole.seconds
    assert short.evaluations == [score for score in whole.evaluations if score[0] <= short.seconds]
    assert (tmp_path / "short" / "model.safetensors").is_file() and not short.failure


def test_the_time_limit_ends_a_run(tmp_path: Path) -> None:
    outcome = simulate(tmp_path / "run", rounds=1000, max_hours=0.2, partition="iid")
    assert outcome.seconds == 720 and 0 < outcome.num_versions < 1000 and not outcome.failure


def test_a_time_limit_before_the_first_version(tmp_path: Path) -> None:
    outcome = simulate(tmp_path / "run", max_hours=0.0001)
    assert (outcome.num_versions, outcome.accuracy, outcome.seconds_to_accuracy(0.1)) == (0, None, None)


def test_a_run_that_cannot_go_on_says_why(tmp_path: Path) -> None:
    plan, devices = prepared(disconnects_per_hour=0)
    outcome = run_simulation(plan.model_copy(update={"loss": "mse"}), tmp_path / "run", devices, evaluating())
    assert re.match(
        r"round 1: too few workers are left for min_results 5: w\d: refused the request: mse", outcome.failure
    )
    assert outcome.event_counts["failure"] >= 1


def test_the_log_tells_virtual_time(tmp_path: Path) -> None:
    outcome = simulate(tmp_path / "run", disconnects_per_hour=0)
    lines = (tmp_path / "run" / "run.log").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("1970-01-01 00:00:00,000 | Each worker trains at most ")
    assert lines[1].startswith("1970-01-01 00:00:00,000 | Training round 1/6")
    minutes, seconds = divmod(int(outcome.seconds), 60)
    assert lines[-1].startswith(f"1970-01-01 00:{minutes:02}:{seconds:02},")
    assert logging.getLogger("fedws").filters == [PRINTABLE_FILTER], "the clock is given back"


def test_an_observer_hears_records_with_the_time(tmp_path: Path) -> None:
    plan, devices = prepared(disconnects_per_hour=0)
    heard: list[tuple[str, float]] = []
    outcome = run_simulation(
        plan, tmp_path / "run", devices, evaluating(), [lambda record, t: heard.append((record["kind"], t))]
    )
    assert [when for kind, when in heard if kind == "evaluation"] == [when for when, _ in outcome.evaluations]
    assert sum(kind == "round" for kind, _ in heard) == 6
